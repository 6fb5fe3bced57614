//! The cluster's configuration.

use bytes::Bytes;
use curator_proto::common::ClusterConfiguration;
use curator_proto::common::cluster_configuration::{StorageSecurityPolicy, TpmMode};

use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::state::record::{Corrupt, decode, encode};
use crate::validate::{Invalid, cluster_domain};

/// The default domain of a cluster.
pub(crate) const DEFAULT_DOMAIN: &str = "cluster.internal";

/// A valid configuration.
#[derive(Clone, Debug)]
pub(crate) struct ClusterRecord {
    configuration: ClusterConfiguration,
    tpm_mode: TpmMode,
    storage: StorageSecurityPolicy,
    stored: Option<Bytes>,
}

impl ClusterRecord {
    /// A configuration that is not stored yet.
    pub(crate) fn new(configuration: ClusterConfiguration) -> Result<Self, Invalid> {
        cluster_domain(&configuration.cluster_domain)?;
        let tpm_mode = TpmMode::try_from(configuration.tpm_mode)
            .ok()
            .filter(|mode| *mode != TpmMode::Invalid)
            .ok_or_else(|| Invalid::new("tpm_mode", "unknown value"))?;
        let storage = StorageSecurityPolicy::try_from(configuration.storage_security_policy)
            .ok()
            .filter(|policy| *policy != StorageSecurityPolicy::Invalid)
            .ok_or_else(|| Invalid::new("storage_security_policy", "unknown value"))?;
        let mut configuration = configuration;
        configuration.kubernetes.get_or_insert_default();
        Ok(Self {
            configuration,
            tpm_mode,
            storage,
            stored: None,
        })
    }

    /// The default configuration of a new cluster.
    pub(crate) fn default_configuration() -> ClusterConfiguration {
        ClusterConfiguration {
            cluster_domain: DEFAULT_DOMAIN.into(),
            tpm_mode: TpmMode::Required.into(),
            storage_security_policy: StorageSecurityPolicy::NeedsEncryptionAndAuthentication.into(),
            kubernetes: Some(Default::default()),
        }
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Self, Corrupt> {
        let key = CLUSTER_CONFIGURATION.as_bytes();
        let mut configuration: ClusterConfiguration = decode(key, value)?;
        if configuration.cluster_domain.is_empty() {
            configuration.cluster_domain = DEFAULT_DOMAIN.into();
        }
        let record = Self::new(configuration).map_err(|invalid| Corrupt::new(key, invalid))?;
        Ok(Self {
            stored: Some(value.clone()),
            ..record
        })
    }

    pub(crate) const fn configuration(&self) -> &ClusterConfiguration {
        &self.configuration
    }

    pub(crate) const fn tpm_mode(&self) -> TpmMode {
        self.tpm_mode
    }

    pub(crate) const fn storage(&self) -> StorageSecurityPolicy {
        self.storage
    }

    /// A configuration that replaces this one.
    pub(crate) fn replaced(&self, configuration: ClusterConfiguration) -> Result<Self, Invalid> {
        Ok(Self {
            stored: self.stored.clone(),
            ..Self::new(configuration)?
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        encode(&self.configuration, self.stored.as_ref())
    }
}
