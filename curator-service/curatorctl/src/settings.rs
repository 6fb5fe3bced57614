//! Which cluster to call and which credentials to use: flags override the environment, which overrides the context.

use std::path::PathBuf;
use std::time::Duration;

use curator_client::{ClientCredentials, CredentialFiles, LoadError, Trust, is_loopback, read_certificate};

use crate::context::{Context, File};
use crate::error::Failure;
use crate::flags::{DEFAULT_TIMEOUT, Flags};
use crate::output::Format;
use crate::text::parse_duration;

/// The merged settings of a command.
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
    /// Merges the flags with the context they select.
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
            return Err(Failure::usage("no endpoint given").hint(
                "give one, such as --endpoint 192.0.2.1:7835, or save one in a context with `curatorctl context set`",
            ));
        }
        let timeout = match (flags.timeout, context.timeout) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => parse_duration(&text)
                .map_err(|wrong| Failure::usage(format!("invalid timeout {text:?} in the context: {wrong}")))?,
            (None, None) => DEFAULT_TIMEOUT,
        };
        // TLS flags override a context without TLS; --insecure-loopback-only overrides a context with TLS.
        let tls_flags = flags.ca.is_some() || flags.cert.is_some() || flags.key.is_some();
        let plain = flags.insecure_loopback_only || (context.insecure_loopback_only && !tls_flags);
        if plain && let Some(far) = endpoints.iter().find(|endpoint| !is_loopback(endpoint)) {
            return Err(Failure::usage(format!(
                "{far} is not a loopback address: without TLS, only 127.0.0.1 and ::1 are allowed"
            )));
        }
        Ok(Self {
            endpoints,
            // The context's members belong to the context's cluster, so --ca discards them.
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

    /// Which peers to accept as instances of the cluster.
    pub(crate) fn trust(&self) -> Result<Trust, Failure> {
        Ok(self.files()?.trust()?)
    }

    /// The credential files, without a client certificate.
    fn files(&self) -> Result<CredentialFiles, Failure> {
        let files = CredentialFiles::new(self.ca_file()?);
        Ok(match self.members.as_slice() {
            [] if self.any_node => files.accept_any_node(),
            [] => files,
            members => files.accept_members(members),
        })
    }

    fn ca_file(&self) -> Result<&PathBuf, Failure> {
        self.ca.as_ref().ok_or_else(|| {
            Failure::usage("no CA certificate given")
                .hint("give the cluster's CA certificate with --ca; `curatorctl cert ca --out ca.pem` fetches it")
        })
    }

    /// The cluster's CA certificate, DER.
    pub(crate) fn authority(&self) -> Result<Vec<u8>, Failure> {
        Ok(read_certificate(self.ca_file()?)?)
    }

    /// The client credentials.
    pub(crate) fn credentials(&self) -> Result<ClientCredentials, Failure> {
        let files = self.files()?;
        let files = match (&self.cert, &self.key) {
            (None, None) => files,
            (Some(certificate), Some(key)) => files.with_certificate(certificate, key),
            (Some(_), None) => return Err(Failure::usage("--cert requires --key")),
            (None, Some(_)) => return Err(Failure::usage("--key requires --cert")),
        };
        Ok(files.load()?)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::usage(error.to_string())
    }
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
        // The setting of the context is about another cluster.
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
        let failure = Settings::merge(&far, Context::default()).expect_err("not loopback");
        assert!(
            failure.to_string().contains("192.0.2.1:7835 is not a loopback address"),
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
