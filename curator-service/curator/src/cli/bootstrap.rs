//! `curator bootstrap`: creates a cluster.

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

/// The initial state of a cluster.
#[derive(Args)]
pub(crate) struct Bootstrap {
    #[command(flatten)]
    store: StoreArgs,

    /// Directory for the credentials of the first node, for `curator serve`: ca.pem and node.pem, and the private keys
    /// of the public keys that are not given: node-key.pem, join-key.pem and owner-key.pem. Existing keys are used;
    /// missing ones are generated. Move the owner's key to the owner's machine.
    #[arg(long, env = "CURATOR_CREDENTIALS", value_name = "DIR")]
    credentials: Option<PathBuf>,

    /// Ed25519 public key of the first node, as 64 hex digits. The node id is derived from it.
    #[arg(
        long,
        env = "CURATOR_NODE_PUBLIC_KEY",
        value_name = "HEX",
        value_parser = parse_key,
        required_unless_present = "credentials"
    )]
    node_public_key: Option<[u8; 32]>,

    /// Ed25519 public key with which the first node rejoins after a restart.
    #[arg(
        long,
        env = "CURATOR_JOIN_PUBLIC_KEY",
        value_name = "HEX",
        value_parser = parse_key,
        required_unless_present = "credentials"
    )]
    join_public_key: Option<[u8; 32]>,

    /// Ed25519 public key of the cluster's owner, who can request a certificate for it.
    #[arg(
        long,
        env = "CURATOR_OWNER_PUBLIC_KEY",
        value_name = "HEX",
        value_parser = parse_key,
        required_unless_present = "credentials"
    )]
    owner_public_key: Option<[u8; 32]>,

    /// File with the cluster's part of the first node's disk encryption key, 32 bytes [default: none].
    #[arg(long, env = "CURATOR_CLUSTER_UNLOCK_KEY_FILE", value_name = "FILE")]
    cluster_unlock_key_file: Option<PathBuf>,

    /// TPM usage of the first node.
    #[arg(long, value_enum, default_value_t = Tpm::Used)]
    tpm: Tpm,

    /// Label of the first node, as key=value; may be repeated.
    #[arg(long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// Domain of the cluster.
    #[arg(long, value_name = "NAME", default_value = "cluster.internal")]
    cluster_domain: String,

    /// TPM policy for nodes.
    #[arg(long, value_enum, default_value_t = Mode::Required)]
    tpm_mode: Mode,

    /// Storage security policy for nodes.
    #[arg(long, value_enum, default_value_t = Storage::NeedsEncryptionAndAuthentication)]
    storage_security: Storage,

    /// Directory for the new certificates, ca.pem and node.pem [default: standard output].
    #[arg(long, value_name = "DIR", conflicts_with = "credentials")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tpm {
    /// Present and used.
    Used,
    /// Present, but not used.
    Unused,
    /// Not present.
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

/// The certificates in the credentials directory.
const CERTIFICATES: [&str; 2] = [names::CA, names::NODE];

fn already_exists(directory: &CredentialsDirectory, name: &str) -> Box<dyn std::error::Error> {
    let path = directory.path(name);
    format!("{} exists: choose another directory", path.display()).into()
}

/// The files that this run created; they are removed on drop unless they are kept.
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
            eprintln!("warning: cannot remove the files of this attempt: {error}");
        }
    }
}

impl Bootstrap {
    /// Creates the cluster; returns the exit code.
    pub(crate) fn run(&self) -> ExitCode {
        let mut made = MadeFiles::default();
        let request = match self.request(&mut made) {
            Ok(request) => request,
            Err(error) => return super::usage_error(&*error, "bootstrap"),
        };
        if let Some(warning) = self.store.warning() {
            eprintln!("warning: {warning}");
        }
        let bootstrapped = self.create(&request);
        let unmade = match &bootstrapped {
            Ok(_) => false,
            Err(error) => match error.downcast_ref() {
                // The cluster may exist now, with these keys.
                Some(BootstrapError::Store(error)) => error.never_ran(),
                _ => true,
            },
        };
        if !unmade {
            made.keep();
        }
        match bootstrapped {
            Ok(made) => match self.write_certificates(&made) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!(
                        "error: the cluster was created, but its certificates cannot be written: {error}; run the same \
                         command again to write them"
                    );
                    ExitCode::FAILURE
                }
            },
            Err(error) => match error.downcast_ref() {
                Some(BootstrapError::Invalid(_)) => super::usage_error(&*error, "bootstrap"),
                _ => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
            },
        }
    }

    fn request(&self, made: &mut MadeFiles) -> Result<curator_service::Bootstrap, Box<dyn std::error::Error>> {
        let cluster_unlock_key = match &self.cluster_unlock_key_file {
            Some(file) => std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => Vec::new(),
        };
        let directory = self.directory(made)?;
        // New keys are on disk before they are used.
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
            // The argument declaration rules this out.
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

    /// The credentials directory; rejected if it has all certificates.
    fn directory(&self, made: &mut MadeFiles) -> Result<Option<CredentialsDirectory>, Box<dyn std::error::Error>> {
        let Some(path) = &self.credentials else { return Ok(None) };
        made.directory = (!path.exists()).then(|| path.clone());
        let directory = CredentialsDirectory::create(path)?;
        if CERTIFICATES.iter().all(|name| directory.has(name)) {
            return Err(already_exists(&directory, names::NODE));
        }
        Ok(Some(directory))
    }

    fn create(&self, request: &curator_service::Bootstrap) -> Result<Bootstrapped, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let to = self.store.store_to_fill()?;
        // An interrupted attempt may have created the cluster without writing all certificates.
        let earlier = if to.is_new() {
            None
        } else {
            runtime.block_on(bootstrapped(to.store(), request))?
        };
        if let Some(earlier) = earlier {
            println!(
                "the cluster was created by an earlier run; first node: {}",
                earlier.node_id
            );
            return Ok(earlier);
        }
        if let Some(path) = &self.credentials {
            let directory = CredentialsDirectory::create(path)?;
            if let Some(name) = CERTIFICATES.into_iter().find(|name| directory.has(name)) {
                return Err(already_exists(&directory, name));
            }
        }
        let made = runtime.block_on(curator_service::bootstrap(to.store(), request, wall_clock()))?;
        to.keep();
        println!("cluster created; first node: {}", made.node_id);
        Ok(made)
    }

    fn write_certificates(&self, made: &Bootstrapped) -> Result<(), Box<dyn std::error::Error>> {
        let certificates = [(names::CA, &made.ca_certificate), (names::NODE, &made.node_certificate)];
        if let Some(path) = &self.credentials {
            let directory = CredentialsDirectory::create(path)?;
            for (name, der) in certificates {
                if !directory.has(name) {
                    directory.write_certificate(name, der)?;
                } else if read_certificate(&directory.path(name))? != *der {
                    return Err(already_exists(&directory, name));
                }
            }
            println!("credentials written to {}", path.display());
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
