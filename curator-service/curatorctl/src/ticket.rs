//! `curatorctl ticket`: the register ticket.

use clap::Subcommand;
use curator_proto::admin_api::RotateRegisterTicketRequest;
use curator_proto::admin_api::tickets_client::TicketsClient;
use curator_proto::management_api::GetRegisterTicketRequest;
use curator_proto::management_api::management_client::ManagementClient;
use serde_json::json;

use crate::confirm::{Answer, Confirm, Required};
use crate::connect::{Cluster, client};
use crate::error::Failure;
use crate::output::{Format, Table, say};
use crate::text::hex;

/// Without a subcommand, the ticket is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Replaces the ticket and prints the new one. The old ticket becomes invalid at once.
    Rotate(Confirm),
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
        Some(Command::Rotate(confirm)) => {
            let what = "replace the register ticket; the current ticket becomes invalid";
            if confirm.ask(Required::Always, what)? == Answer::Stop {
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
