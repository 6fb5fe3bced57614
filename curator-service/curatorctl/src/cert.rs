//! `curatorctl cert`: fetches, renews, shows and verifies certificates.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use curator_client::Instance;
use curator_identity::{
    ClientCredentials, PrivateKey, Trust, certificate_pem, credential_names as names, read_certificate,
    read_private_key, replace_certificate, verify_certificate, wall_clock,
};
use curator_proto::admin_api::IssueOwnRequest;
use curator_proto::admin_api::certificates_client::CertificatesClient;
use curator_proto::curator_api::GetCaCertificateRequest;
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::management_api::aaa_client::AaaClient;
use curator_proto::management_api::{EscrowRequest, EscrowResponse, escrow_request};
use serde_json::{Value, json};
use tokio::time::timeout_at;
use tonic::Status;
use tonic::transport::Channel;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::connect::{Cluster, tls};
use crate::error::Failure;
use crate::flags::Flags;
use crate::output::{Format, Table, say};
use crate::settings::Settings;
use crate::text::{hex, sha256};

/// The only user that the cluster issues a certificate for.
const OWNER: &str = "owner";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fetches the cluster's CA certificate from the first endpoint that responds, without verification. Compare its
    /// fingerprint before you trust it.
    Ca {
        /// Output file, PEM [default: standard output].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Expected SHA-256 of the certificate, in hex; any other certificate is refused.
        #[arg(long, value_name = "HEX")]
        fingerprint: Option<String>,
    },
    /// Requests the owner's certificate for the owner's private key, which --key gives.
    Owner {
        /// Output file, PEM. An existing file is not overwritten.
        #[arg(long, value_name = "FILE", default_value = "owner.pem")]
        out: PathBuf,
    },
    /// Renews a certificate for the same key and replaces the file: the owner's certificate, which --cert and --key
    /// give, or a node's. An expired certificate can be renewed as well.
    Renew {
        /// Credentials directory of a node, whose certificate is renewed. A running instance loads it within seconds.
        #[arg(long, value_name = "DIR")]
        credentials: Option<PathBuf>,
    },
    /// Prints the contents of certificates.
    Show {
        /// Certificate files, PEM.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Verifies certificates against the CA given with --ca, and prints their subjects.
    Verify {
        /// Certificate files, PEM.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

impl Command {
    /// Whether the command needs no connection.
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self, Self::Show { .. } | Self::Verify { .. })
    }

    pub(crate) fn run_locally(self, flags: &Flags) -> Result<(), Failure> {
        match self {
            Self::Show { files } => show(flags.output, &files),
            Self::Verify { files } => verify(flags, &files),
            Self::Ca { .. } | Self::Owner { .. } | Self::Renew { .. } => Ok(()),
        }
    }
}

pub(crate) async fn run(cluster: &Cluster, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ca { out, fingerprint } => ca(cluster, out.as_deref(), fingerprint.as_deref()).await,
        Command::Owner { out } => owner(cluster, &out).await,
        Command::Renew { credentials } => renew(cluster, credentials.as_deref()).await,
        Command::Show { .. } | Command::Verify { .. } => Ok(()),
    }
}

async fn ca(cluster: &Cluster, out: Option<&Path>, expected: Option<&str>) -> Result<(), Failure> {
    let anybody =
        ClientCredentials::anonymous(Trust::Unverified).map_err(|error| Failure::failed(error.to_string()))?;
    let mut last = Failure::usage("no endpoint given");
    for address in &cluster.settings.endpoints {
        let channel = if cluster.settings.plain {
            cluster.channel(address)?
        } else {
            tls(&anybody, address)?
        };
        let mut local = CuratorLocalClient::new(channel);
        let asked = local.get_ca_certificate(cluster.request(GetCaCertificateRequest {}));
        let answer = timeout_at(cluster.deadline(), asked).await;
        let der = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(""))) {
            Ok(answer) => answer.into_inner().identity_ca_certificate,
            Err(status) => {
                last = Failure::of_status(&status, address);
                continue;
            }
        };
        let fingerprint = sha256(&der);
        if let Some(expected) = expected
            && !expected.replace(':', "").eq_ignore_ascii_case(&fingerprint)
        {
            return Err(
                Failure::failed(format!("fingerprint mismatch: expected {expected}, got {fingerprint}"))
                    .at(address.clone())
                    .hint("check the endpoint: it belongs to another cluster, or the connection is intercepted"),
            );
        }
        let pem = certificate_pem(&der);
        return match out {
            Some(path) => {
                write_new(path, &pem)?;
                say(&format!(
                    "{} written; compare its SHA-256 fingerprint: {fingerprint}",
                    path.display()
                ))
            }
            None => say(pem.trim_end()),
        };
    }
    Err(last)
}

async fn owner(cluster: &Cluster, out: &Path) -> Result<(), Failure> {
    let settings = &cluster.settings;
    if settings.plain {
        return Err(Failure::usage("the owner's certificate can only be requested over TLS"));
    }
    let key = settings
        .key
        .as_ref()
        .ok_or_else(|| Failure::usage("no private key given: give the owner's with --key"))?;
    let key = read_private_key(key)?;
    if out.symlink_metadata().is_ok() {
        return Err(Failure::usage("the file exists").at(out.display().to_string()));
    }
    let (reached, channel) = connect_with_key(settings, &key).await?;
    let mut aaa = AaaClient::new(channel);
    let request = EscrowRequest {
        parameters: Some(escrow_request::Parameters {
            requested_identity_name: OWNER.to_owned(),
            public_key: key.public_key().to_vec(),
        }),
        proofs: None,
    };
    let asking = async || {
        let answers = aaa
            .escrow(cluster.request(futures::stream::iter([request.clone()])))
            .await?;
        let mut answers = answers.into_inner();
        let mut last: Option<EscrowResponse> = None;
        while let Some(answer) = answers.message().await? {
            last = Some(answer);
        }
        last.filter(|answer| !answer.emitted_certificate.is_empty())
            .ok_or_else(|| Status::internal("the cluster returned no certificate"))
    };
    let answer = cluster.call(&reached, asking).await?;
    let certificate = answer.emitted_certificate;
    // The leader is authenticated, but the certificate that it returns is verified all the same.
    verify_certificate(&certificate, &settings.authority()?, wall_clock())
        .map_err(|error| Failure::failed(format!("the cluster returned an invalid certificate: {error}")))?;
    write_new(out, &certificate_pem(&certificate))?;
    say(&format!("{} written", out.display()))
}

/// A channel to the leader, authenticated by a key without a valid certificate.
async fn connect_with_key(settings: &Settings, key: &PrivateKey) -> Result<(Instance, Channel), Failure> {
    // The leader is looked up without credentials.
    let anybody = Cluster::new(Settings {
        endpoints: settings.endpoints.clone(),
        ca: settings.ca.clone(),
        members: settings.members.clone(),
        cert: None,
        key: None,
        ..*settings
    });
    let reached = anybody.leader().await?;
    let shown = ClientCredentials::with_key(settings.trust()?, key, wall_clock())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let channel = tls(&shown, reached.address())?;
    Ok((reached, channel))
}

async fn renew(cluster: &Cluster, credentials: Option<&Path>) -> Result<(), Failure> {
    let settings = &cluster.settings;
    if settings.plain {
        return Err(Failure::usage("a certificate can only be renewed over TLS"));
    }
    let (certificate, key) = match (credentials, &settings.cert, &settings.key) {
        (Some(directory), ..) => (directory.join(names::NODE), directory.join(names::NODE_KEY)),
        (None, Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => {
            return Err(Failure::usage("no certificate given")
                .hint("give the owner's with --cert and --key, or a node's with --credentials"));
        }
    };
    // The file must exist, so that a mistyped name creates nothing.
    read_certificate(&certificate)?;
    let key = read_private_key(&key)?;
    let (reached, channel) = connect_with_key(settings, &key).await?;
    let mut certificates = CertificatesClient::new(channel);
    let issued = cluster
        .call(&reached, async || {
            let request = cluster.request(IssueOwnRequest { anew: true });
            certificates.issue_own(request).await
        })
        .await?
        .into_inner();
    let subject = verify_certificate(&issued.certificate, &settings.authority()?, wall_clock())
        .map_err(|error| Failure::failed(format!("the cluster returned an invalid certificate: {error}")))?;
    replace_certificate(&certificate, &issued.certificate)
        .map_err(|error| Failure::failed(error.to_string()).at(certificate.display().to_string()))?;
    say(&format!("{} renewed for {subject}", certificate.display()))
}

/// Writes a new file.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::failed(error.to_string()).at(path.display().to_string()))
}

fn show(format: Format, files: &[PathBuf]) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut table = Table::new(&["FIELD", "VALUE"]);
    for path in files {
        let der = read_certificate(path)?;
        let shown = contents(path, &der)?;
        for (name, value) in shown.as_object().into_iter().flatten() {
            table.row([
                name.clone(),
                value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            ]);
        }
        all.push(shown);
    }
    format.print(&all.into(), &table)
}

fn contents(path: &Path, der: &[u8]) -> Result<Value, Failure> {
    let malformed = || Failure::usage("not an X.509 certificate").at(path.display().to_string());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<_> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .map(ToString::to_string)
        .collect();
    Ok(json!({
        "file": path.display().to_string(),
        "subject": certificate.subject().to_string(),
        "issuer": certificate.issuer().to_string(),
        "authority": certificate.is_ca(),
        "valid_from": certificate.validity().not_before.to_string(),
        "valid_until": certificate.validity().not_after.to_string(),
        "names": names.join(", "),
        "public_key": hex(&certificate.public_key().subject_public_key.data),
        "sha256": sha256(der),
    }))
}

fn verify(flags: &Flags, files: &[PathBuf]) -> Result<(), Failure> {
    let context = crate::context::File::load(flags)?.chosen(flags)?;
    let ca = flags
        .ca
        .clone()
        .or(context.ca)
        .ok_or_else(|| Failure::usage("no CA certificate given: give --ca"))?;
    let ca = read_certificate(&ca)?;
    let mut bad = Vec::new();
    let mut table = Table::new(&["FILE", "FOR"]);
    let mut all = Vec::new();
    for path in files {
        let file = path.display().to_string();
        match verify_certificate(&read_certificate(path)?, &ca, wall_clock()) {
            Ok(subject) => {
                table.row([file.clone(), subject.to_string()]);
                all.push(json!({"file": file, "for": subject.to_string(), "good": true}));
            }
            Err(error) => {
                table.row([file.clone(), format!("invalid: {error}")]);
                all.push(json!({"file": file, "for": null, "good": false, "reason": error.to_string()}));
                bad.push(file);
            }
        }
    }
    flags.output.print(&all.into(), &table)?;
    match bad[..] {
        [] => Ok(()),
        _ => Err(Failure::failed("some certificates are invalid").at(bad.join(", "))),
    }
}
