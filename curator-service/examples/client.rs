//! A client with the owner's credentials: prints the nodes of a cluster.
//!
//! `cargo run -p curator-service --example client -- 10.0.0.1:7835 ca.pem owner.pem owner-key.pem`; any instance will
//! do, and several addresses may be given, separated by commas.

use std::time::Duration;

use curator_client::{Client, CredentialFiles, Security};
use curator_proto::management_api::GetNodesRequest;
use curator_proto::management_api::management_client::ManagementClient;
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, ca, certificate, key] = arguments.as_slice() else {
        return Err("give the address of an instance, and the files of the CA, the certificate and its key".into());
    };
    // Only instances that prove to be members of the consensus are believed.
    let owner = CredentialFiles::new(ca).with_certificate(certificate, key).load()?;
    let client = Client::new(addresses.split(','), Security::Tls(owner))?;

    // The call goes to the leader, and is sent again only if it provably did not run.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut nodes = client
        .call(deadline, async |attempt| {
            let mut management = ManagementClient::new(attempt.channel());
            management.get_nodes(attempt.request(GetNodesRequest::default())).await
        })
        .await?
        .into_inner();
    while let Some(node) = nodes.message().await? {
        println!("{}: {:?}", node.id, node.state());
    }
    Ok(())
}
