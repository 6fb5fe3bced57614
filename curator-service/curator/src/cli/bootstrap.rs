//! `curator bootstrap`: makes a cluster.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use curator_proto::common::cluster_configuration::{Kubernetes, StorageSecurityPolicy, TpmMode};
use curator_proto::common::{ClusterConfiguration, NodeTpmUsage};
use curator_service::{
    BootstrapError, Bootstrapped, CredentialsDirectory, CredentialsError, bootstrapped, certificate_pem,
    credential_names as names, read_certificate, wall_clock,
};

use crate::cli::options::{StoreArgs, parse_key, parse_label};

/// What a cluster begins with.
#[derive(Args)]
pub(crate) struct Bootstrap {
    #[command(flatten)]
    store: StoreArgs,

    /// A directory for the credentials of the first node, which `curator serve` uses then: ca.pem and node.pem, and the private
    /// keys of those public keys that are not given: node-key.pem, join-key.pem and owner-key.pem. They are made if they are not
    /// there. Put the owner's key where the owner is.
    #[arg(long, env = "CURATOR_CREDENTIALS", value_name = "DIR")]
    credentials: Option<PathBuf>,

    /// The first node's Ed25519 public key, as 64 hex digits. Its id follows from it.
    #[arg(
        long,
        env = "CURATOR_NODE_PUBLIC_KEY",
        value_name = "HEX",
        value_parser = parse_key,
        required_unless_present = "credentials"
    )]
    node_public_key: Option<[u8; 32]>,

    /// The Ed25519 public key that the first node joins with after a restart.
    #[arg(
        long,
        env = "CURATOR_JOIN_PUBLIC_KEY",
        value_name = "HEX",
        value_parser = parse_key,
        required_unless_present = "credentials"
    )]
    join_public_key: Option<[u8; 32]>,

    /// The Ed25519 public key of the cluster's owner, who may have a certificate for it.
    #[arg(
        long,
        env = "CURATOR_OWNER_PUBLIC_KEY",
        value_name = "HEX",
        value_parser = parse_key,
        required_unless_present = "credentials"
    )]
    owner_public_key: Option<[u8; 32]>,

    /// A file with the cluster's part of the first node's disk key, 32 bytes [default: none].
    #[arg(long, env = "CURATOR_CLUSTER_UNLOCK_KEY_FILE", value_name = "FILE")]
    cluster_unlock_key_file: Option<PathBuf>,

    /// What the first node does with its TPM.
    #[arg(long, value_enum, default_value_t = Tpm::Used)]
    tpm: Tpm,

    /// A label of the first node, as key=value; may be repeated.
    #[arg(long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// The cluster's domain.
    #[arg(long, value_name = "NAME", default_value = "cluster.internal")]
    cluster_domain: String,

    /// Whether nodes must have a TPM.
    #[arg(long, value_enum, default_value_t = Mode::Required)]
    tpm_mode: Mode,

    /// How nodes must secure their storage.
    #[arg(long, value_enum, default_value_t = Storage::NeedsEncryptionAndAuthentication)]
    storage_security: Storage,

    /// A directory for the certificates that are made, as ca.pem and node.pem [default: they are printed].
    #[arg(long, value_name = "DIR", conflicts_with = "credentials")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tpm {
    /// It has one, and uses it.
    Used,
    /// It has one, and does not use it.
    Unused,
    /// It has none.
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Required,
    BestEffort,
    Disabled,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    Permissive,
    NeedsEncryption,
    NeedsEncryptionAndAuthentication,
    NeedsInsecure,
}

/// What the directory of credentials has in the end, beside keys.
const CERTIFICATES: [&str; 2] = [names::CA, names::NODE];

fn is_there(directory: &CredentialsDirectory, name: &str) -> Box<dyn std::error::Error> {
    let path = directory.path(name);
    format!("{} is there already: choose another directory", path.display()).into()
}

/// What this run has made beside the cluster: gone again unless it is kept.
#[derive(Default)]
struct MadeFiles {
    directory: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl MadeFiles {
    fn keep(&mut self) {
        self.files.clear();
        self.directory = None;
    }
}

impl Drop for MadeFiles {
    fn drop(&mut self) {
        let files = self.files.drain(..).map(std::fs::remove_file);
        let directory = self.directory.take().map(std::fs::remove_dir);
        if let Some(error) = files.chain(directory).find_map(Result::err) {
            eprintln!("warning: what was made for this could not be removed: {error}");
        }
    }
}

impl Bootstrap {
    /// Makes the cluster; the exit code says whether there is one now that was not there.
    pub(crate) fn run(&self) -> ExitCode {
        let mut made = MadeFiles::default();
        let asked = match self.asked(&mut made) {
            Ok(asked) => asked,
            Err(wrong) => return crate::wrong_arguments(&*wrong, "bootstrap"),
        };
        if let Some(warning) = self.store.warning() {
            eprintln!("warning: {warning}");
        }
        let bootstrapped = self.make(&asked);
        let unmade = match &bootstrapped {
            Ok(_) => false,
            Err(error) => match error.downcast_ref() {
                // The cluster may have been made, for these keys.
                Some(BootstrapError::Store(error)) => error.never_ran(),
                _ => true,
            },
        };
        if !unmade {
            made.keep();
        }
        match bootstrapped {
            Ok(made) => match self.hand_out(&made) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!(
                        "error: the cluster is made, but its certificates cannot be written: {error}; the same once \
                         more writes them"
                    );
                    ExitCode::FAILURE
                }
            },
            Err(error) => match error.downcast_ref() {
                Some(BootstrapError::Invalid(_)) => crate::wrong_arguments(&*error, "bootstrap"),
                _ => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
            },
        }
    }

    fn asked(&self, made: &mut MadeFiles) -> Result<curator_service::Bootstrap, Box<dyn std::error::Error>> {
        let cluster_unlock_key = match &self.cluster_unlock_key_file {
            Some(file) => std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => Vec::new(),
        };
        let directory = self.directory(made)?;
        // New keys are on the disk before anything is made with them.
        let mut public_key = |given: Option<[u8; 32]>, name: &str| match (given, &directory) {
            (Some(given), _) => Ok(given.to_vec()),
            (None, Some(directory)) => {
                let is_new = !directory.has(name);
                let key = directory.key(name)?;
                if is_new {
                    made.files.push(directory.path(name));
                }
                Ok::<_, CredentialsError>(key.public_key().to_vec())
            }
            // One of them is there, as the arguments are declared.
            (None, None) => Ok(Vec::new()),
        };
        Ok(curator_service::Bootstrap {
            node_public_key: public_key(self.node_public_key, names::NODE_KEY)?,
            join_public_key: public_key(self.join_public_key, names::JOIN_KEY)?,
            owner_public_key: public_key(self.owner_public_key, names::OWNER_KEY)?,
            cluster_unlock_key,
            tpm_usage: match self.tpm {
                Tpm::Used => NodeTpmUsage::PresentAndUsed,
                Tpm::Unused => NodeTpmUsage::PresentButUnused,
                Tpm::None => NodeTpmUsage::NotPresent,
            },
            labels: self.label.clone(),
            configuration: Some(ClusterConfiguration {
                cluster_domain: self.cluster_domain.clone(),
                tpm_mode: match self.tpm_mode {
                    Mode::Required => TpmMode::Required,
                    Mode::BestEffort => TpmMode::BestEffort,
                    Mode::Disabled => TpmMode::Disabled,
                }
                .into(),
                storage_security_policy: match self.storage_security {
                    Storage::Permissive => StorageSecurityPolicy::Permissive,
                    Storage::NeedsEncryption => StorageSecurityPolicy::NeedsEncryption,
                    Storage::NeedsEncryptionAndAuthentication => {
                        StorageSecurityPolicy::NeedsEncryptionAndAuthentication
                    }
                    Storage::NeedsInsecure => StorageSecurityPolicy::NeedsInsecure,
                }
                .into(),
                kubernetes: Some(Kubernetes::default()),
            }),
        })
    }

    /// Where the credentials go; refused if all certificates are in it.
    fn directory(&self, made: &mut MadeFiles) -> Result<Option<CredentialsDirectory>, Box<dyn std::error::Error>> {
        let Some(path) = &self.credentials else { return Ok(None) };
        made.directory = (!path.exists()).then(|| path.clone());
        let directory = CredentialsDirectory::create(path)?;
        match CERTIFICATES.iter().all(|name| directory.has(name)) {
            true => Err(is_there(&directory, names::NODE)),
            false => Ok(Some(directory)),
        }
    }

    fn make(&self, asked: &curator_service::Bootstrap) -> Result<Bootstrapped, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let to = self.store.store_to_fill()?;
        // An attempt that was interrupted has made the cluster, and not handed out all of it.
        let earlier = match to.is_new() {
            true => None,
            false => runtime.block_on(bootstrapped(to.store(), asked))?,
        };
        if let Some(earlier) = earlier {
            println!(
                "this very cluster has been made before; its first node is {}",
                earlier.node_id
            );
            return Ok(earlier);
        }
        if let Some(path) = &self.credentials {
            let directory = CredentialsDirectory::create(path)?;
            if let Some(name) = CERTIFICATES.into_iter().find(|name| directory.has(name)) {
                return Err(is_there(&directory, name));
            }
        }
        let made = runtime.block_on(curator_service::bootstrap(to.store(), asked, wall_clock()))?;
        to.keep();
        println!("bootstrapped: the first node is {}", made.node_id);
        Ok(made)
    }

    fn hand_out(&self, made: &Bootstrapped) -> Result<(), Box<dyn std::error::Error>> {
        let certificates = [(names::CA, &made.ca_certificate), (names::NODE, &made.node_certificate)];
        if let Some(path) = &self.credentials {
            let directory = CredentialsDirectory::create(path)?;
            for (name, der) in certificates {
                if !directory.has(name) {
                    directory.write_certificate(name, der)?;
                } else if read_certificate(&directory.path(name))? != *der {
                    return Err(is_there(&directory, name));
                }
            }
            println!("its credentials are in {}", path.display());
            return Ok(());
        }
        if let Some(directory) = &self.out {
            std::fs::create_dir_all(directory)?;
        }
        for (name, der) in certificates {
            match &self.out {
                Some(directory) => std::fs::write(Path::new(directory).join(name), certificate_pem(der))?,
                None => print!("{}", certificate_pem(der)),
            }
        }
        Ok(())
    }
}
