//! A store of clients that exist already, and the conversion of a condition for them.

use etcd_client::Client;

use super::tls_reload::Clients;
use super::{EtcdConfig, EtcdConfigError, EtcdStore, convert};
use crate::Compare;

impl EtcdStore {
    /// A store of existing clients, one for each member, each with the URL that names it in errors and metrics.
    ///
    /// A client should be connected to one member: one that balances over several keeps using a member that hangs. It
    /// needs HTTP/2 keep-alive, a connect timeout and `with_require_leader`, and renews its own token: the store has no
    /// credentials, so [`EtcdConfig::access`] has no effect. For everything else the settings of `config` apply; its
    /// endpoints are replaced.
    ///
    /// # Errors
    /// If there is no client, a URL is invalid, or the file of [`EtcdConfig::cluster_file`] is unusable.
    pub fn from_clients(clients: Vec<(String, Client)>, config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let (endpoints, clients): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
        let named = EtcdConfig::new(endpoints);
        let config = EtcdConfig {
            endpoints: named.endpoints,
            access: named.access,
            ..config
        };
        if config.endpoints.is_empty() {
            return Err(EtcdConfigError::NoEndpoints);
        }
        for given in &config.endpoints {
            super::endpoint::check(given)?;
        }
        let clients = Clients::existing(config.endpoints.clone(), clients)?;
        Self::with(config, clients)
    }
}

impl From<Compare> for etcd_client::Compare {
    fn from(compare: Compare) -> Self {
        convert::compare(compare)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Keys, Range, Store, StoreError};

    #[tokio::test]
    async fn existing_clients_are_used_and_their_timeout_is_that_of_the_config() {
        let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", hung.local_addr().unwrap());
        let client = Client::connect([&url], None).await.unwrap();
        let mut config = EtcdConfig::new(vec![]);
        config.call_timeout = Duration::from_millis(200);
        let store = EtcdStore::from_clients(vec![(url.clone(), client)], config).unwrap();
        let call = store.range(Range::all(Keys::one("k")));
        let (accepted, error) = futures::future::join(hung.accept(), call).await;
        accepted.unwrap();
        let error = error.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unknown { reason } if reason.contains(&url)),
            "{error}"
        );
    }

    #[test]
    fn a_store_of_no_clients_is_refused() {
        let error = EtcdStore::from_clients(vec![], EtcdConfig::new(vec!["http://127.0.0.1:1".into()])).unwrap_err();
        assert!(matches!(error, EtcdConfigError::NoEndpoints), "{error}");
    }
}
