//! A client with the owner's credentials: prints the nodes of a cluster.
//!
//! `cargo run -p curator-service --example client -- 10.0.0.1:7835 ca.pem owner.pem owner-key.pem`; any instance will
//! do.

use std::path::Path;

use curator_proto::management_api::GetNodesRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_service::{ClientCredentials, Trust, read_certificate, read_private_key};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, certificate, key] = arguments.as_slice() else {
        return Err("give the address of an instance, and the files of the CA, the certificate and its key".into());
    };
    // Only instances that prove to be members of the consensus are believed.
    let trust = Trust::Instances {
        ca: read_certificate(Path::new(ca))?,
    };
    let certificate = read_certificate(Path::new(certificate))?;
    let owner = ClientCredentials::with_certificate(trust, certificate, &read_private_key(Path::new(key))?)?;

    let mut management = ManagementClient::new(owner.channel(address)?);
    let mut nodes = management.get_nodes(GetNodesRequest::default()).await?.into_inner();
    while let Some(node) = nodes.message().await? {
        println!("{}: {:?}", node.id, node.state());
    }
    Ok(())
}
