//! Certificates for the components of a node.

use curator_identity::Subject;
use curator_proto::curator_api::issue_certificate_request::{self, KubernetesWorker};
use curator_proto::curator_api::{IssueCertificateRequest, IssueCertificateResponse, issue_certificate_response};
use tonic::{Code, Status};

use crate::leader::Leader;
use crate::leader::nodes::lookup;
use crate::validate::key32;

impl Leader {
    /// Issues certificates for the keys of the calling node's components. The same keys get the same certificates.
    pub(in crate::leader) async fn issue_certificate(
        &self,
        caller: &str,
        request: IssueCertificateRequest,
    ) -> Result<IssueCertificateResponse, Status> {
        // Checks first that the node exists; an invalid record counts as unavailable.
        let known = self.state.transact(|tx| lookup::node(tx, caller).map(drop)).await;
        known.map_err(|status| Status::unavailable(status.message()))?;
        let authority = self.kubernetes_pki.authority(&self.state, self.now()).await?;
        let Some(issue_certificate_request::Kind::KubernetesWorker(keys)) = request.kind else {
            return Err(Status::invalid_argument("kind: required"));
        };
        let wanted = WorkerCertificates::new(caller);
        let layout = self.kubernetes_pki.layout();
        let stored: Vec<_> = wanted.names().iter().map(|name| layout.issued(name)).collect();
        self.state.load(&stored).await?;
        let now = self.now();
        let issued = self
            .state
            .transact(|tx| {
                if lookup::node(tx, caller)?.roles().kubernetes_worker.is_none() {
                    return Err(Status::permission_denied(format!(
                        "node {caller} does not have the kubernetes_worker role"
                    )));
                }
                let KubernetesWorker {
                    kubelet_pubkey,
                    csi_provisioner_pubkey,
                    netservices_pubkey,
                } = &keys;
                let kubelet = key32("kubernetes_worker.kubelet_pubkey", kubelet_pubkey)?;
                let csi = key32("kubernetes_worker.csi_provisioner_pubkey", csi_provisioner_pubkey)?;
                let netservices = key32("kubernetes_worker.netservices_pubkey", netservices_pubkey)?;
                let mut ensure = |(name, subject): &(String, Subject), key: &[u8; 32]| {
                    self.kubernetes_pki.ensure(tx, &authority, name, subject, key, now)
                };
                Ok(issue_certificate_response::KubernetesWorker {
                    identity_ca_certificate: authority.certificate().to_vec(),
                    kubelet_server_certificate: ensure(&wanted.kubelet_server, &kubelet)?,
                    kubelet_client_certificate: ensure(&wanted.kubelet_client, &kubelet)?,
                    csi_provisioner_certificate: ensure(&wanted.csi_provisioner, &csi)?,
                    netservices_certificate: ensure(&wanted.netservices, &netservices)?,
                })
            })
            .await;
        let worker = issued.map_err(|status| match status.code() {
            Code::NotFound => Status::unavailable(status.message()),
            _ => status,
        })?;
        Ok(IssueCertificateResponse {
            kind: Some(issue_certificate_response::Kind::KubernetesWorker(worker)),
        })
    }
}

/// The certificates of a worker node: their names in the store and their subjects.
struct WorkerCertificates {
    kubelet_server: (String, Subject),
    kubelet_client: (String, Subject),
    csi_provisioner: (String, Subject),
    netservices: (String, Subject),
}

impl WorkerCertificates {
    fn new(node: &str) -> Self {
        let system_node = format!("system:node:{node}");
        let client = |name: &str, common_name: String, organization: &str| {
            let subject = Subject {
                organization: Some(organization.into()),
                ..Subject::user(&common_name)
            };
            (format!("{name}-{common_name}"), subject)
        };
        let (kubelet, kubelet_client) = client("kubelet", system_node.clone(), "system:nodes");
        let csi = format!("metropolis:csi-provisioner:{node}");
        let netservices = format!("metropolis:netservices:{node}");
        Self {
            kubelet_server: (
                format!("{kubelet}-server"),
                Subject {
                    common_name: String::new(),
                    dns_name: Some(system_node),
                    server: true,
                    ..Subject::default()
                },
            ),
            kubelet_client: (format!("{kubelet}-client"), kubelet_client),
            csi_provisioner: client("csi-provisioner", csi, "metropolis:csi-provisioner"),
            netservices: client("netservices", netservices, "metropolis:netservices"),
        }
    }

    fn names(&self) -> [&str; 4] {
        [
            &self.kubelet_server.0,
            &self.kubelet_client.0,
            &self.csi_provisioner.0,
            &self.netservices.0,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_originals() {
        assert_eq!(
            WorkerCertificates::new("n").names(),
            [
                "kubelet-system:node:n-server",
                "kubelet-system:node:n-client",
                "csi-provisioner-metropolis:csi-provisioner:n",
                "netservices-metropolis:netservices:n",
            ]
        );
    }
}
