//! `curatorctl ticket`: what new nodes register with.

use clap::Subcommand;
use curator_proto::admin_api::RotateRegisterTicketRequest;
use curator_proto::admin_api::tickets_client::TicketsClient;
use curator_proto::management_api::GetRegisterTicketRequest;
use curator_proto::management_api::management_client::ManagementClient;
use serde_json::json;

use crate::confirm::{Asked, Care, Go};
use crate::connect::{Cluster, client};
use crate::failure::Failure;
use crate::output::{Format, Table, say};
use crate::text::hex;

/// What is done with it; without a word it is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes another ticket and prints it. The one before registers no node any more: whoever has seen it has nothing.
    Rotate(Care),
}

pub(crate) async fn run(cluster: &Cluster, args: &Args) -> Result<(), Failure> {
    let leader = cluster.leader().await?;
    let ticket = match &args.command {
        None => {
            let mut management = client!(ManagementClient, leader);
            let call = async || {
                let request = cluster.request(GetRegisterTicketRequest {});
                management.get_register_ticket(request).await
            };
            cluster.call(&leader, call).await?.into_inner().ticket
        }
        Some(Command::Rotate(care)) => {
            let what = "make another register ticket: the one that there is registers no node from then on";
            if care.ask(Asked::Always, what)? == Go::NoFurther {
                return Ok(());
            }
            let mut tickets = client!(TicketsClient, leader);
            let call = async || {
                let request = cluster.request(RotateRegisterTicketRequest {});
                tickets.rotate_register_ticket(request).await
            };
            cluster.call(&leader, call).await?.into_inner().ticket
        }
    };
    let ticket = hex(&ticket);
    match cluster.settings.output {
        Format::Table | Format::Wide => say(&ticket),
        format => format.print(&json!({"ticket": ticket}), &Table::default()),
    }
}
