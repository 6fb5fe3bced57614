//! Which cluster, and as whom: from the flags, the environment and the context, in that order of strength.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use curator_identity::{ClientCredentials, Trust, read_certificate, read_private_key};

use crate::context::{Context, File};
use crate::failure::Failure;
use crate::output::Format;
use crate::text::parse_duration;

/// How long everything may take, unless it is said.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The head of the flags of all commands in a command's help: its own come first.
const EVERYWHERE: &str = "Options of all commands";

/// The flags of all commands.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Flags {
    /// An instance, as host:port; with commas, or repeated, for several, of which the first that answers is asked.
    #[arg(
        long, help_heading = EVERYWHERE,
        short,
        global = true,
        env = "CURATORCTL_ENDPOINTS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub(crate) endpoint: Vec<String>,

    /// The certificate of the cluster's authority, PEM: whoever has none of it is not taken for the cluster.
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// The id of a node that is a member of the consensus; with commas, or repeated, for several. Then only these are taken for
    /// instances of the cluster, and not whatever node proves to be a member.
    #[arg(
        long, help_heading = EVERYWHERE,
        global = true,
        env = "CURATORCTL_MEMBERS",
        value_name = "NODE",
        value_delimiter = ','
    )]
    pub(crate) member: Vec<String>,

    /// Takes any node of the cluster for an instance, also one that does not prove to be a member of the consensus: for a cluster that
    /// the original leads, or an earlier release.
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_ANY_NODE", conflicts_with = "member")]
    pub(crate) any_node: bool,

    /// The certificate to show, PEM.
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,

    /// The private key of the certificate, PEM.
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// Without TLS: for instances on this host that run without it. They recognize nobody.
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_INSECURE_LOOPBACK_ONLY", conflicts_with_all = ["ca", "member", "any_node", "cert", "key"])]
    pub(crate) insecure_loopback_only: bool,

    /// How long everything may take together [default: 10s].
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_TIMEOUT", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// How the answer looks.
    #[arg(long, help_heading = EVERYWHERE, short, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,

    /// The context to use instead of the current one.
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// The file with the contexts [default: curatorctl/config.toml in $XDG_CONFIG_HOME or ~/.config].
    #[arg(long, help_heading = EVERYWHERE, global = true, env = "CURATORCTL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What all of that comes to.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoints: Vec<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) members: Vec<String>,
    pub(crate) any_node: bool,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) plain: bool,
    pub(crate) timeout: Duration,
    pub(crate) output: Format,
}

impl Settings {
    /// Puts together what is said.
    pub(crate) fn resolve(flags: &Flags) -> Result<Self, Failure> {
        let context = File::load(flags)?.chosen(flags)?;
        Self::merge(flags, context)
    }

    fn merge(flags: &Flags, context: Context) -> Result<Self, Failure> {
        let mut endpoints = flags.endpoint.clone();
        if endpoints.is_empty() {
            endpoints = context.endpoints;
        }
        if endpoints.is_empty() {
            return Err(Failure::usage("no instance is named").hint(
                "name one with --endpoint, such as --endpoint 192.0.2.1:7835, or once and for all with `curatorctl context set`",
            ));
        }
        let timeout = match (flags.timeout, context.timeout) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => parse_duration(&text)
                .map_err(|wrong| Failure::usage(format!("the context's timeout {text:?}: {wrong}")))?,
            (None, None) => TIMEOUT,
        };
        // A context with TLS does not take away a flag without, and the other way round.
        let tls_said = flags.ca.is_some() || flags.cert.is_some() || flags.key.is_some();
        let plain = flags.insecure_loopback_only || (context.insecure_loopback_only && !tls_said);
        if plain && let Some(far) = endpoints.iter().find(|endpoint| !is_loopback(endpoint)) {
            return Err(Failure::usage(format!(
                "{far} is not on this host: without TLS only 127.0.0.1 and ::1 are called"
            )));
        }
        Ok(Self {
            endpoints,
            // Those of the context are of its cluster.
            any_node: flags.any_node || (context.any_node && flags.ca.is_none() && flags.member.is_empty()),
            members: match (flags.member.is_empty() && !flags.any_node, flags.ca.is_none()) {
                (false, _) => flags.member.clone(),
                (true, true) => context.members,
                (true, false) => Vec::new(),
            },
            ca: flags.ca.clone().or(context.ca),
            cert: flags.cert.clone().or(context.certificate),
            key: flags.key.clone().or(context.key),
            plain,
            timeout,
            output: flags.output,
        })
    }

    /// Whom to take for the cluster.
    pub(crate) fn trust(&self) -> Result<Trust, Failure> {
        let ca = self.authority()?;
        Ok(match self.members.as_slice() {
            [] if self.any_node => Trust::Cluster { ca },
            [] => Trust::Instances { ca },
            members => Trust::Members {
                ca,
                node_ids: members.to_vec(),
            },
        })
    }

    /// The certificate of the cluster's authority, DER.
    pub(crate) fn authority(&self) -> Result<Vec<u8>, Failure> {
        let ca = self.ca.as_ref().ok_or_else(|| {
            Failure::usage("it is not said which cluster this is")
                .hint("give the certificate of its authority with --ca; `curatorctl cert ca --out ca.pem` fetches it")
        })?;
        Ok(read_certificate(ca)?)
    }

    /// What to show.
    pub(crate) fn credentials(&self) -> Result<ClientCredentials, Failure> {
        let trust = self.trust()?;
        let made = match (&self.cert, &self.key) {
            (None, None) => ClientCredentials::nobody(trust),
            (Some(certificate), Some(key)) => {
                ClientCredentials::with_certificate(trust, read_certificate(certificate)?, &read_private_key(key)?)
            }
            (Some(_), None) => return Err(Failure::usage("a certificate is of no use without its --key")),
            (None, Some(_)) => return Err(Failure::usage("a key is of no use without its --cert")),
        };
        made.map_err(|error| Failure::usage(error.to_string()))
    }
}

/// Whether a `host:port` is on this host.
pub(crate) fn is_loopback(address: &str) -> bool {
    let Some((host, _)) = address.rsplit_once(':') else {
        return false;
    };
    let host = host.trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            endpoint: vec!["127.0.0.1:1".into()],
            ..Flags::default()
        }
    }

    fn context() -> Context {
        Context {
            endpoints: vec!["192.0.2.1:7835".into()],
            ca: Some("ca.pem".into()),
            timeout: Some("3s".into()),
            ..Context::default()
        }
    }

    #[test]
    fn flags_are_stronger_than_the_context() {
        let merged = Settings::merge(&Flags::default(), context()).expect("complete");
        assert_eq!(merged.endpoints, ["192.0.2.1:7835"]);
        assert_eq!(
            (merged.timeout, merged.ca),
            (Duration::from_secs(3), Some("ca.pem".into()))
        );
        let merged = Settings::merge(
            &Flags {
                timeout: Some(Duration::from_secs(1)),
                ca: Some("other.pem".into()),
                ..flags()
            },
            context(),
        )
        .expect("complete");
        assert_eq!(merged.endpoints, ["127.0.0.1:1"]);
        assert_eq!(
            (merged.timeout, merged.ca),
            (Duration::from_secs(1), Some("other.pem".into()))
        );
    }

    #[test]
    fn members_are_those_of_the_cluster_that_is_meant() {
        let pinned = || Context {
            members: vec!["metropolis-1".into()],
            ..context()
        };
        let members = |flags: &Flags| Settings::merge(flags, pinned()).expect("complete").members;
        assert_eq!(members(&flags()), ["metropolis-1"]);
        let named = Flags {
            member: vec!["metropolis-2".into()],
            ..flags()
        };
        assert_eq!(members(&named), ["metropolis-2"]);
        let other_cluster = Flags {
            ca: Some("other.pem".into()),
            ..flags()
        };
        assert!(members(&other_cluster).is_empty());
        let any = Flags {
            any_node: true,
            ..flags()
        };
        assert!(members(&any).is_empty());
    }

    #[test]
    fn any_node_is_taken_only_where_that_is_said() {
        let old = || Context {
            any_node: true,
            ..context()
        };
        let any = |flags: &Flags, context| Settings::merge(flags, context).expect("complete").any_node;
        assert!(!any(&flags(), context()));
        assert!(any(&flags(), old()));
        let said = Flags {
            any_node: true,
            ..flags()
        };
        assert!(any(&said, context()));
        // It was said of another cluster.
        let other_cluster = Flags {
            ca: Some("other.pem".into()),
            ..flags()
        };
        assert!(!any(&other_cluster, old()));
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let failure = Settings::merge(&Flags::default(), Context::default()).expect_err("no instance");
        assert!(failure.to_string().contains("--endpoint 192.0.2.1:7835"), "{failure}");
        let settings = Settings::merge(&flags(), Context::default()).expect("complete");
        let failure = settings.credentials().expect_err("no authority");
        assert!(failure.to_string().contains("curatorctl cert ca"), "{failure}");
        let slow = Context {
            timeout: Some("ten".into()),
            ..context()
        };
        assert!(
            Settings::merge(&flags(), slow)
                .expect_err("bad")
                .to_string()
                .contains("500ms")
        );
    }

    #[test]
    fn without_tls_nobody_far_away_is_called() {
        let far = Flags {
            insecure_loopback_only: true,
            endpoint: vec!["192.0.2.1:7835".into()],
            ..Flags::default()
        };
        let failure = Settings::merge(&far, Context::default()).expect_err("far away");
        assert!(
            failure.to_string().contains("192.0.2.1:7835 is not on this host"),
            "{failure}"
        );
        for (address, near) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(is_loopback(address), near, "{address}");
        }
    }
}
