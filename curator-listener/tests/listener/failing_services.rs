//! A leader whose services cannot be started.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use curator_echo::EchoService;
use curator_listener::{LeaderServicesError, Services};
use tonic::Code;
use tonic::service::Routes;

use crate::fixture::{Instance, config, follower_role, in_time, leader_role, say};

/// The services start in every term but the first.
fn failing_in_first_term(made: &Arc<AtomicUsize>) -> Services {
    let made = made.clone();
    Services::with_factory(move |term| {
        made.fetch_add(1, Ordering::SeqCst);
        if term.term.lock_revision == 1 {
            return Err(LeaderServicesError::new("the cache is not readable").caused_by("/var/cache: denied"));
        }
        let service = EchoService::new("leader".to_owned(), term.term.lock_revision);
        Ok(Routes::new(service.into_server()))
    })
}

#[tokio::test]
async fn leader_without_services_refuses_calls_with_the_reason() {
    let made = Arc::new(AtomicUsize::new(0));
    let mut config = config();
    config.hold_cap = Duration::from_millis(300);
    let leader = Instance::serving(leader_role(1).0, config.clone(), |_| failing_in_first_term(&made));
    let follower = Instance::with(follower_role(leader.address, 1), config, |service| service);

    let failure = in_time(leader.handle.leader_failed()).await;
    assert_eq!(failure.term.lock_revision, 1);
    assert_eq!(failure.error.reason(), "the cache is not readable");
    assert!(
        failure
            .to_string()
            .contains("lock revision 1: the cache is not readable"),
        "{failure}"
    );
    assert!(!*leader.handle.serving().borrow());

    // The leader gives a forwarded call back, since nothing of it ran; so the follower names only the kind of reason.
    for (instance, reason) in [
        (&leader, "cannot serve: the cache is not readable"),
        (&follower, "(cannot-serve)"),
    ] {
        let status = in_time(instance.client().say(say(1))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains(reason), "{status}");
        // Callers may be strangers.
        assert!(!format!("{status:?}").contains("/var/cache"), "{status:?}");
    }
    assert_eq!(made.load(Ordering::SeqCst), 1, "once a term, whatever is called");
    assert!(leader.handle.drain().await.is_none());
    leader.stop().await;
    follower.stop().await;
}

#[tokio::test]
async fn call_to_leader_without_services_waits_for_the_next_term() {
    let made = Arc::new(AtomicUsize::new(0));
    let (first, guard) = leader_role(1);
    let instance = Instance::serving(first, config(), |_| failing_in_first_term(&made));
    in_time(instance.handle.leader_failed()).await;
    let mut client = instance.client();
    let mut waiting = tokio::spawn(async move { client.say(say(1)).await });
    // No event shows that a call waits; an answer would show that it does not.
    let answered = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(answered.is_err(), "{answered:?}");
    guard.end();
    instance.status.set(leader_role(2).0);
    let answer = in_time(waiting).await.unwrap().expect("the next term has services");
    assert_eq!(answer.into_inner().term, 2);
    instance.serves(true).await;
    // It tells of the term that is, and of no earlier one.
    let told = tokio::time::timeout(Duration::ZERO, instance.handle.leader_failed()).await;
    assert!(told.is_err(), "{told:?}");
    instance.stop().await;
}
