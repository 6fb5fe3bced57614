//! `curator bootstrap`: makes a cluster.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use curator_proto::common::cluster_configuration::{Kubernetes, StorageSecurityPolicy, TpmMode};
use curator_proto::common::{ClusterConfiguration, NodeTpmUsage};
use curator_service::{BootstrapError, Bootstrapped};

use crate::options::{StoreArgs, parse_key, parse_label};

/// What a cluster begins with.
#[derive(Args)]
pub(crate) struct Bootstrap {
    #[command(flatten)]
    store: StoreArgs,

    /// The first node's Ed25519 public key, as 64 hex digits. Its id follows from it.
    #[arg(long, env = "CURATOR_NODE_PUBLIC_KEY", value_name = "HEX", value_parser = parse_key)]
    node_public_key: [u8; 32],

    /// The Ed25519 public key that the first node joins with after a restart.
    #[arg(long, env = "CURATOR_JOIN_PUBLIC_KEY", value_name = "HEX", value_parser = parse_key)]
    join_public_key: [u8; 32],

    /// The Ed25519 public key of the cluster's owner, who may have a certificate for it.
    #[arg(long, env = "CURATOR_OWNER_PUBLIC_KEY", value_name = "HEX", value_parser = parse_key)]
    owner_public_key: [u8; 32],

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
    #[arg(long, value_name = "DIR")]
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
        let cluster_unlock_key = match &self.cluster_unlock_key_file {
            Some(file) => std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => Vec::new(),
        };
        Ok(curator_service::Bootstrap {
            node_public_key: self.node_public_key.to_vec(),
            join_public_key: self.join_public_key.to_vec(),
            owner_public_key: self.owner_public_key.to_vec(),
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

    #[allow(
        clippy::disallowed_methods,
        reason = "when the certificates begin: nothing is decided by it"
    )]
    fn make(&self, asked: &curator_service::Bootstrap) -> Result<Bootstrapped, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = self.store.store()?;
        let made = runtime.block_on(curator_service::bootstrap(&*store, asked, SystemTime::now()))?;
        Ok(made)
    }

    fn hand_out(&self, made: &Bootstrapped) -> std::io::Result<()> {
        let certificates = [("ca.pem", &made.ca_certificate), ("node.pem", &made.node_certificate)];
        if let Some(directory) = &self.out {
            std::fs::create_dir_all(directory)?;
        }
        for (name, der) in certificates {
            match &self.out {
                Some(directory) => std::fs::write(Path::new(directory).join(name), pem(der))?,
                None => print!("{}", pem(der)),
            }
        }
        Ok(())
    }
}

/// A certificate as RFC 7468 has it.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
