//! The listener in front of a tonic service, in both roles.
//!
//! Run it with `cargo run -p curator-listener --example tonic_service`. One listener leads and another one follows
//! it, with roles that are set by hand. The leader answers the calls to both.

use curator_echo::EchoService;
use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use curator_listener::{Leader, LeaderTerm, Listener, ListenerConfig, Role, Services, StaticStatus, TermId};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let term = TermId {
        lock_key: "/leader/1".into(),
        lock_revision: 1,
    };
    let cancel = CancellationToken::new();
    let bind = || Listener::bind(["127.0.0.1:0".parse().expect("an address")], ListenerConfig::default());

    // The services of each term of this process.
    let services = |name: &'static str| {
        Services::new(move |term| Routes::new(EchoService::new(name.to_owned(), term.term.lock_revision).into_server()))
    };
    let leader = bind()?;
    let address = leader.addresses()[0].to_string();
    let leads = Role::Leader(LeaderTerm::new(term.clone(), forever::Forever));
    let leading = tokio::spawn(leader.run(StaticStatus::new(leads), services("one"), cancel.clone()));

    let follower = bind()?;
    let at = format!("http://{}", follower.addresses()[0]);
    let follows = Role::Follower(Leader {
        node_id: "one".into(),
        addresses: vec![address],
        authorizes_forwarded: true,
        term,
    });
    let following = tokio::spawn(follower.run(StaticStatus::new(follows), services("two"), cancel.clone()));

    let mut client = EchoClient::connect(at).await?;
    let answer = client.say(SayRequest::default()).await?.into_inner();
    println!("answered by {}", answer.node);
    assert_eq!(answer.node, "one", "the follower has forwarded the call");

    cancel.cancel();
    leading.await??;
    following.await??;
    Ok(())
}

/// A term that does not end. An election gives a real one.
mod forever {
    pub(super) struct Forever;

    #[async_trait::async_trait]
    impl curator_listener::TermGuard for Forever {
        fn is_valid(&self) -> bool {
            true
        }

        fn remaining(&self) -> std::time::Duration {
            std::time::Duration::MAX
        }

        async fn ended(&self) {
            std::future::pending::<()>().await;
        }
    }
}
