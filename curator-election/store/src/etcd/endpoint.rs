//! What is an endpoint of etcd, as people write it.

use tonic::transport::Uri;

/// Why an endpoint cannot be used. What may be a password is not in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It is no URL with all parts.
    #[error(
        "{endpoint:?} is no etcd endpoint: give a URL with scheme, host and port, for example http://127.0.0.1:2379, or unix:// and the \
         absolute path of a socket"
    )]
    NoUrl {
        /// What was given.
        endpoint: String,
    },
    /// It names a user.
    #[error(
        "{endpoint:?} has a user or a password in it: leave them out, and give --etcd-user and --etcd-password-file, which is read \
         again when it changes and is in nobody's list of processes"
    )]
    User {
        /// What was given, without them.
        endpoint: String,
    },
    /// An address of one link, with TLS.
    #[error(
        "{endpoint:?} is an address of one network interface (%...), which no certificate can name: give a host name or another \
         address with https"
    )]
    ZoneWithTls {
        /// What was given.
        endpoint: String,
    },
}

/// An endpoint without the spaces around it, and with its scheme as all others spell it.
pub(super) fn tidied(endpoint: &str) -> String {
    let endpoint = endpoint.trim();
    match endpoint.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => endpoint.to_owned(),
    }
}

/// What the endpoint of a member begins with that listens on a socket of this host.
const UNIX: &str = "unix://";
/// A socket's path is no longer: what Linux has room for, less the byte that ends it.
const LONGEST_PATH: usize = 107;

/// Whether it is a socket of this host. What follows is its path, with all that etcd may have put behind it, such as `:0`.
pub(super) fn is_unix(endpoint: &str) -> bool {
    endpoint.starts_with(UNIX)
}

/// Whether a tidied endpoint can be used.
pub(super) fn check(endpoint: &str) -> Result<(), EndpointError> {
    if let Some(path) = endpoint.strip_prefix(UNIX) {
        return match path.starts_with('/') && path.len() > 1 && path.len() <= LONGEST_PATH {
            true => Ok(()),
            false => Err(EndpointError::NoUrl {
                endpoint: endpoint.to_owned(),
            }),
        };
    }
    let shown = without_user(endpoint);
    if shown != endpoint {
        return Err(EndpointError::User { endpoint: shown });
    }
    let no_url = || EndpointError::NoUrl {
        endpoint: endpoint.to_owned(),
    };
    let url = endpoint.parse::<Uri>().map_err(|_| no_url())?;
    let host = url.host().filter(|host| !host.is_empty()).ok_or_else(no_url)?;
    match (url.scheme_str(), url.port_u16()) {
        (Some("https"), Some(_)) if host.contains('%') => Err(EndpointError::ZoneWithTls {
            endpoint: endpoint.to_owned(),
        }),
        (Some("http" | "https"), Some(_)) => Ok(()),
        _ => Err(no_url()),
    }
}

/// The same without what stands before an `@`, which need not be a URL otherwise.
fn without_user(endpoint: &str) -> String {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), endpoint),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => scheme + host,
        None => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_as_people_write_them() {
        for (given, used) in [
            ("http://a:1", "http://a:1"),
            (" http://a:1", "http://a:1"),
            ("HTTP://a:1\t", "http://a:1"),
            ("Https://etcd.Example:1", "https://etcd.Example:1"),
            ("http://[::1]:2379", "http://[::1]:2379"),
            ("unix:///run/etcd.sock:0", "unix:///run/etcd.sock:0"),
            (" UNIX:///run/A@b ", "unix:///run/A@b"),
            ("http://[fe80::1%eth0]:2379", "http://[fe80::1%eth0]:2379"),
        ] {
            let tidied = tidied(given);
            assert_eq!(tidied, used);
            assert_eq!(check(&tidied), Ok(()), "{given:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_words() {
        let long = format!("unix:///{}", "x".repeat(107));
        for (given, part) in [
            ("", "scheme, host and port"),
            ("127.0.0.1:2379", "scheme, host and port"),
            ("http://", "scheme, host and port"),
            ("http://127.0.0.1", "scheme, host and port"),
            ("ftp://a:1", "scheme, host and port"),
            ("unix:/run/etcd.sock", "scheme, host and port"),
            ("unix://run/etcd.sock", "absolute path of a socket"),
            ("unix:///", "absolute path of a socket"),
            (long.as_str(), "absolute path of a socket"),
            ("http://a b:1", "scheme, host and port"),
            ("https://[fe80::1%eth0]:2379", "which no certificate can name"),
            ("http://user:secret@a:1", "--etcd-password-file"),
            ("user:secret@a:1", "--etcd-password-file"),
            ("http://user:se@cret@a:1", "--etcd-password-file"),
        ] {
            let told = check(&tidied(given)).unwrap_err().to_string();
            assert!(told.contains(part), "{given:?}: {told}");
            assert!(!told.contains("cret"), "{given:?}: {told}");
        }
    }
}
