//! `curatorctl ticket`: what new nodes register with.

use curator_proto::management_api::GetRegisterTicketRequest;
use curator_proto::management_api::management_client::ManagementClient;
use serde_json::json;

use crate::connect::{Cluster, client};
use crate::failure::Failure;
use crate::output::{Format, Table, say};
use crate::text::hex;

pub(crate) async fn run(cluster: &Cluster) -> Result<(), Failure> {
    let leader = cluster.leader().await?;
    let mut management = client!(ManagementClient, leader);
    let call = management.get_register_ticket(cluster.request(GetRegisterTicketRequest {}));
    let ticket = hex(&cluster.call(&leader, call).await?.into_inner().ticket);
    match cluster.settings.output {
        Format::Table => say(&ticket),
        format => format.print(&json!({"ticket": ticket}), &Table::default()),
    }
}
