//! `curator bootstrap`: makes a cluster.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use curator_proto::common::cluster_configuration::{Kubernetes, StorageSecurityPolicy, TpmMode};
use curator_proto::common::{ClusterConfiguration, NodeTpmUsage};
use curator_service::{
    BootstrapError, Bootstrapped, CredentialsDirectory, certificate_pem, credential_names as names, wall_clock,
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

impl Bootstrap {
    /// Makes the cluster; the exit code says whether there is one now that was not there.
    pub(crate) fn run(&self) -> ExitCode {
        let asked = match self.asked() {
            Ok(asked) => asked,
            Err(wrong) => return crate::wrong_arguments(&*wrong, "bootstrap"),
        };
        if let Some(warning) = self.store.warning() {
            eprintln!("warning: {warning}");
        }
        match self.make(&asked) {
            Ok(made) => {
                println!("bootstrapped: the first node is {}", made.node_id);
                match self.hand_out(&made) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => {
                        eprintln!("error: the cluster is made, but its certificates cannot be written: {error}");
                        ExitCode::FAILURE
                    }
                }
            }
            Err(error) => match error.downcast_ref() {
                Some(BootstrapError::Invalid(_)) => crate::wrong_arguments(&*error, "bootstrap"),
                _ => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
            },
        }
    }

    fn asked(&self) -> Result<curator_service::Bootstrap, Box<dyn std::error::Error>> {
        let directory = self.directory()?;
        // New keys are on the disk before anything is made with them.
        let public_key = |given: Option<[u8; 32]>, name: &str| match (given, &directory) {
            (Some(given), _) => Ok(given.to_vec()),
            (None, Some(directory)) => directory.key(name).map(|key| key.public_key().to_vec()),
            // One of them is there, as the arguments are declared.
            (None, None) => Ok(Vec::new()),
        };
        let cluster_unlock_key = match &self.cluster_unlock_key_file {
            Some(file) => std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => Vec::new(),
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

    /// Where the credentials go; refused if there are certificates in it.
    fn directory(&self) -> Result<Option<CredentialsDirectory>, Box<dyn std::error::Error>> {
        let Some(path) = &self.credentials else { return Ok(None) };
        let directory = CredentialsDirectory::create(path)?;
        match [names::CA, names::NODE].into_iter().find(|name| directory.has(name)) {
            Some(name) => {
                let path = directory.path(name);
                Err(format!("{} is there already: choose another directory", path.display()).into())
            }
            None => Ok(Some(directory)),
        }
    }

    fn make(&self, asked: &curator_service::Bootstrap) -> Result<Bootstrapped, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = self.store.store()?;
        let made = runtime.block_on(curator_service::bootstrap(&*store, asked, wall_clock()))?;
        Ok(made)
    }

    fn hand_out(&self, made: &Bootstrapped) -> Result<(), Box<dyn std::error::Error>> {
        let certificates = [(names::CA, &made.ca_certificate), (names::NODE, &made.node_certificate)];
        if let Some(path) = &self.credentials {
            let directory = CredentialsDirectory::create(path)?;
            for (name, der) in certificates {
                directory.write_certificate(name, der)?;
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
