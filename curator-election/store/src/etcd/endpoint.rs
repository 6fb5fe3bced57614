//! Parsing and checking of etcd endpoints.

use tonic::transport::Uri;

/// An invalid endpoint. The message never contains a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not a complete URL.
    #[error(
        "invalid etcd endpoint {endpoint:?}: use a URL with scheme, host and port, for example http://127.0.0.1:2379, \
         or unix:// and the absolute path of a socket"
    )]
    NoUrl {
        /// The endpoint.
        endpoint: String,
    },
    /// The URL contains a user.
    #[error(
        "etcd endpoint {endpoint:?} contains a user or password: remove them, and use --etcd-user and \
         --etcd-password-file (the file is re-read when it changes, and its content is not visible in the process list)"
    )]
    User {
        /// The endpoint, without user and password.
        endpoint: String,
    },
    /// A link-local address with a zone, with TLS.
    #[error(
        "etcd endpoint {endpoint:?} is a link-local address with a zone (%...), which no certificate can contain: \
         with https use a host name or another address"
    )]
    ZoneWithTls {
        /// The endpoint.
        endpoint: String,
    },
}

/// The endpoint without surrounding whitespace and with its scheme in lower case.
pub(super) fn normalized(endpoint: &str) -> String {
    let endpoint = endpoint.trim();
    match endpoint.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => endpoint.to_owned(),
    }
}

/// The scheme of a unix socket.
const UNIX: &str = "unix://";
/// The maximum length of a socket's path: that of Linux, without the terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Whether the endpoint is a unix socket. The rest is its path, including a suffix such as `:0` that etcd may add.
pub(super) fn is_unix(endpoint: &str) -> bool {
    endpoint.starts_with(UNIX)
}

/// Checks a normalized endpoint.
pub(super) fn check(endpoint: &str) -> Result<(), EndpointError> {
    if let Some(path) = endpoint.strip_prefix(UNIX) {
        if path.starts_with('/') && path.len() > 1 && path.len() <= MAX_SOCKET_PATH {
            return Ok(());
        }
        return Err(EndpointError::NoUrl {
            endpoint: endpoint.to_owned(),
        });
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

/// The endpoint without user and password before an `@`; it need not be a valid URL.
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
            let normalized = normalized(given);
            assert_eq!(normalized, used);
            assert_eq!(check(&normalized), Ok(()), "{given:?}");
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
            ("https://[fe80::1%eth0]:2379", "which no certificate can contain"),
            ("http://user:secret@a:1", "--etcd-password-file"),
            ("user:secret@a:1", "--etcd-password-file"),
            ("http://user:se@cret@a:1", "--etcd-password-file"),
        ] {
            let told = check(&normalized(given)).unwrap_err().to_string();
            assert!(told.contains(part), "{given:?}: {told}");
            assert!(!told.contains("cret"), "{given:?}: {told}");
        }
    }
}
