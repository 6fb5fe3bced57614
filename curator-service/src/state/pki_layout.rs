//! The keys and names of the certificate authorities in the state, as in the Go Curator.

use std::time::SystemTime;

use bytes::Bytes;
use curator_election::store::{KeyValue, Op};
use curator_identity::{Authority, AuthorityError, PrivateKey};

/// The keys and names of a certificate authority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// With a trailing slash.
    prefix: &'static str,
    name: &'static str,
    pub(crate) common_name: &'static str,
}

impl Layout {
    /// The cluster's authority.
    pub(crate) const CLUSTER: Self = Self {
        prefix: "/cluster-pki/",
        name: "cluster-ca",
        common_name: "Metropolis Cluster CA",
    };
    /// The authority of etcd peers.
    pub(crate) const ETCD: Self = Self {
        prefix: "@etcd-pki//pki/",
        name: "CA",
        common_name: "Metropolis etcd CA Certificate",
    };
    /// The authority of Kubernetes components.
    pub(crate) const KUBERNETES: Self = Self {
        prefix: "@kubernetes//kube-pki/",
        name: "id-ca",
        common_name: "Metropolis Kubernetes ID CA",
    };

    pub(crate) fn key(self) -> Bytes {
        format!("{}keys/{}-privkey.bin", self.prefix, self.name).into()
    }

    pub(crate) fn certificate(self) -> Bytes {
        self.issued(self.name)
    }

    pub(crate) fn crl(self) -> Bytes {
        format!("{}{}-crl.der", self.prefix, self.name).into()
    }

    /// The key of an issued certificate.
    pub(crate) fn issued(self, name: &str) -> Bytes {
        format!("{}issued/{name}-cert.der", self.prefix).into()
    }

    /// The keys of an authority.
    pub(crate) fn keys(self) -> [Bytes; 3] {
        [self.key(), self.certificate(), self.crl()]
    }

    /// The authority from its stored parts, and the operations that write the missing parts.
    pub(crate) fn complete(
        self,
        key: Option<&KeyValue>,
        certificate: Option<&KeyValue>,
        crl: Option<&KeyValue>,
        now: SystemTime,
    ) -> Result<(Authority, Vec<Op>), AuthorityError> {
        let private = match key {
            Some(stored) => PrivateKey::from_bytes(&stored.value)?,
            None => PrivateKey::generate()?,
        };
        let authority = match certificate {
            Some(stored) => Authority::load(private, stored.value.to_vec())?,
            None => Authority::create(self.common_name, private, now)?,
        };
        let mut ops = Vec::new();
        if key.is_none() {
            ops.push(Op::put(self.key(), authority.key().to_bytes().to_vec()));
        }
        if certificate.is_none() {
            ops.push(Op::put(self.certificate(), authority.certificate().to_vec()));
        }
        if crl.is_none() {
            ops.push(Op::put(self.crl(), authority.empty_crl(now)?));
        }
        Ok((authority, ops))
    }
}
