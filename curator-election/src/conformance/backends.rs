//! The conformance suite of backends: what the elector relies on.
//!
//! A case panics if the backend does not conform. It needs two clients of one election, as in two processes, in which
//! nobody else takes part. Each case leaves the election empty.

#![allow(clippy::unwrap_used, reason = "a backend that fails a call has failed the case")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::backend::{CampaignError, Candidate, Elected, ElectionBackend, Observation};
use crate::store::{LeaseId, Revision, StoreError};

/// The timeout of waits.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// A TTL that no case exceeds.
const LONG_TTL: Duration = Duration::from_secs(60);
/// A TTL that a case waits for. A store may grant more.
const SHORT_TTL: Duration = Duration::from_secs(2);

/// Runs all cases on two clients of one empty election.
///
/// # Panics
/// If the backend does not conform.
pub async fn check_all(one: Arc<dyn ElectionBackend>, other: Arc<dyn ElectionBackend>) {
    let clients = Clients { one, other };
    sole_candidate_wins(&clients).await;
    second_candidate_wins_after_the_first(&clients).await;
    campaign_again_keeps_its_place(&clients).await;
    value_is_proclaimed_under_its_revision_only(&clients).await;
    key_is_removed_under_its_revision_only(&clients).await;
    lease_is_that_of_the_store(&clients).await;
    campaign_without_a_lease_fails(&clients).await;
    observer_sees_each_last_leader(&clients).await;
    lease_that_expires_ends_the_candidacy(&clients).await;
}

struct Clients {
    one: Arc<dyn ElectionBackend>,
    other: Arc<dyn ElectionBackend>,
}

impl Clients {
    async fn lease(&self) -> LeaseId {
        self.one.grant(LONG_TTL).await.unwrap().id
    }

    /// The candidates as both clients see them.
    async fn candidates(&self) -> Vec<Candidate> {
        let found = self.one.candidates().await.unwrap();
        assert_eq!(found, self.other.candidates().await.unwrap(), "both read linearizably");
        found
    }

    async fn revoke(&self, lease: LeaseId) {
        self.one.revoke(lease).await.unwrap();
        assert!(
            self.candidates()
                .await
                .iter()
                .all(|candidate| candidate.lease != Some(lease))
        );
    }
}

async fn in_time<T>(what: &str, done: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_TIMEOUT, done).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {WAIT_TIMEOUT:?}"),
    }
}

/// The next observation that has this leader, or none.
async fn leader(observations: &mut BoxStream<'static, Observation>, key: Option<&Bytes>) -> Observation {
    let mut newest = Revision(0);
    let observed = async {
        loop {
            let observation = observations.next().await.expect("observations never end");
            assert!(observation.revision >= newest, "{observation:?} after {newest}");
            newest = observation.revision;
            if observation.leader.as_ref().map(|leader| &leader.key) == key {
                return observation;
            }
        }
    };
    in_time("an observation", observed).await
}

async fn win(backend: &Arc<dyn ElectionBackend>, lease: LeaseId, value: &'static str) -> Elected {
    in_time("a campaign without others", backend.campaign(lease, value.into(), None))
        .await
        .unwrap()
}

/// Starts a campaign behind the present leader, and waits until it is queued.
async fn queue(
    clients: &Clients,
    lease: LeaseId,
    value: &'static str,
) -> impl Future<Output = Result<Elected, CampaignError>> + use<> {
    let backend = clients.other.clone();
    let mut campaign = Box::pin(async move { backend.campaign(lease, value.into(), None).await });
    let queued = async {
        loop {
            let found = clients.one.candidates().await.unwrap();
            if found.iter().any(|candidate| candidate.lease == Some(lease)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        won = &mut campaign => panic!("won before the older candidate left: {won:?}"),
        () = in_time("a queued key", queued) => campaign,
    }
}

async fn sole_candidate_wins(clients: &Clients) {
    assert_eq!(clients.candidates().await, [], "the election is empty at first");
    let lease = clients.lease().await;
    let elected = win(&clients.one, lease, "one").await;
    assert!(elected.won_at >= elected.revision, "{elected:?}");
    let found = clients.candidates().await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].key, found[0].create_revision),
        (&elected.key, elected.revision)
    );
    assert_eq!((&found[0].value[..], found[0].lease), (&b"one"[..], Some(lease)));
    assert!(!clients.one.key_in_store(&elected.key).is_empty());
    clients.revoke(lease).await;
    // Revoking again is safe.
    let again = clients.one.revoke(lease).await;
    assert!(
        matches!(again, Ok(()) | Err(StoreError::LeaseNotFound { .. })),
        "{again:?}"
    );
}

async fn second_candidate_wins_after_the_first(clients: &Clients) {
    let (first, second) = (clients.lease().await, clients.lease().await);
    let led = win(&clients.one, first, "first").await;
    let campaign = queue(clients, second, "second").await;
    let found = clients.candidates().await;
    let order: Vec<_> = found.iter().map(|candidate| candidate.lease).collect();
    assert_eq!(order, [Some(first), Some(second)], "oldest first");
    clients.revoke(first).await;
    let elected = in_time("the next in the queue", campaign).await.unwrap();
    assert!(elected.revision > led.revision, "{elected:?} after {led:?}");
    assert!(
        elected.won_at > elected.revision,
        "won after the first had left: {elected:?}"
    );
    assert_ne!(elected.key, led.key);
    clients.revoke(second).await;
}

async fn campaign_again_keeps_its_place(clients: &Clients) {
    let (first, second) = (clients.lease().await, clients.lease().await);
    win(&clients.one, first, "first").await;
    drop(queue(clients, second, "second").await);
    let before = clients.candidates().await[1].clone();
    // The answer was lost, and then there is another value.
    drop(queue(clients, second, "second").await);
    assert_eq!(clients.candidates().await[1], before);
    let backend = clients.other.clone();
    let campaign = backend.campaign(second, "changed".into(), None);
    let changed = async {
        while clients.one.candidates().await.unwrap()[1].value != "changed" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        won = campaign => panic!("won before the older candidate left: {won:?}"),
        () = in_time("the changed value", changed) => {}
    }
    assert_eq!(clients.candidates().await[1].create_revision, before.create_revision);
    clients.revoke(first).await;
    let elected = win(&clients.other, second, "changed").await;
    assert_eq!(elected.revision, before.create_revision);
    clients.revoke(second).await;
}

async fn value_is_proclaimed_under_its_revision_only(clients: &Clients) {
    let lease = clients.lease().await;
    let Elected { key, revision, .. } = win(&clients.one, lease, "old").await;
    let proclaim = |revision| clients.one.proclaim(key.clone(), revision, lease, "new".into());
    assert!(!proclaim(Revision(revision.0 + 1)).await.unwrap());
    assert_eq!(clients.candidates().await[0].value, "old");
    assert!(proclaim(revision).await.unwrap());
    let found = clients.candidates().await.remove(0);
    assert_eq!(
        (&found.value[..], found.create_revision, found.lease),
        (&b"new"[..], revision, Some(lease))
    );
    assert!(found.mod_revision > revision);
    clients.revoke(lease).await;
    assert!(!matches!(proclaim(revision).await, Ok(true)), "the key is gone");
    assert_eq!(clients.candidates().await, []);
}

async fn key_is_removed_under_its_revision_only(clients: &Clients) {
    let (first, second) = (clients.lease().await, clients.lease().await);
    let led = win(&clients.one, first, "first").await;
    let campaign = queue(clients, second, "second").await;
    let queued = clients.candidates().await[1].clone();
    let wrong = Revision(queued.mod_revision.0 + 1);
    assert!(!clients.one.remove(queued.key.clone(), wrong).await.unwrap());
    assert!(
        clients
            .one
            .remove(queued.key.clone(), queued.mod_revision)
            .await
            .unwrap()
    );
    assert!(
        !clients
            .one
            .remove(queued.key.clone(), queued.mod_revision)
            .await
            .unwrap()
    );
    assert_eq!(clients.candidates().await.len(), 1);
    // The candidate learns of it when it could win, at the latest.
    assert!(clients.one.remove(led.key, led.revision).await.unwrap());
    let lost = in_time("the end of the campaign", campaign).await;
    assert!(matches!(lost, Err(CampaignError::KeyLost { .. })), "{lost:?}");
    clients.revoke(first).await;
    clients.revoke(second).await;
}

async fn lease_is_that_of_the_store(clients: &Clients) {
    let lease = clients.one.grant(LONG_TTL).await.unwrap();
    assert_eq!(clients.one.keep_alive(lease.id, 0).await.unwrap(), lease.ttl);
    let renewed = clients.other.keep_alive(lease.id, 1).await;
    assert_eq!(renewed.expect("a lease of another client is renewed"), lease.ttl);
    clients.other.revoke(lease.id).await.unwrap();
    for client in [&clients.one, &clients.other] {
        let error = client.keep_alive(lease.id, 0).await.unwrap_err();
        assert!(matches!(error, StoreError::LeaseNotFound { .. }), "{error:?}");
    }
}

async fn campaign_without_a_lease_fails(clients: &Clients) {
    let lease = clients.lease().await;
    clients.revoke(lease).await;
    let failed = in_time("a final error", clients.one.campaign(lease, "late".into(), None)).await;
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(clients.candidates().await, []);
}

async fn observer_sees_each_last_leader(clients: &Clients) {
    let mut observations = clients.other.observe();
    leader(&mut observations, None).await;
    let (first, second) = (clients.lease().await, clients.lease().await);
    let led = win(&clients.one, first, "first").await;
    let observed = leader(&mut observations, Some(&led.key)).await;
    assert!(observed.revision >= led.revision, "{observed:?}");
    let campaign = queue(clients, second, "second").await;
    clients.revoke(first).await;
    let led = in_time("the next in the queue", campaign).await.unwrap();
    leader(&mut observations, Some(&led.key)).await;
    clients.revoke(second).await;
    leader(&mut observations, None).await;
}

async fn lease_that_expires_ends_the_candidacy(clients: &Clients) {
    let (lost, kept) = (clients.one.grant(SHORT_TTL).await.unwrap(), clients.lease().await);
    win(&clients.one, lost.id, "lost").await;
    let campaign = queue(clients, kept, "kept").await;
    let elected = tokio::time::timeout(lost.ttl + WAIT_TIMEOUT, campaign)
        .await
        .expect("a lease expires")
        .unwrap();
    let error = clients.one.keep_alive(lost.id, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseNotFound { .. }), "{error:?}");
    assert_eq!(clients.candidates().await[0].key, elected.key);
    clients.revoke(kept).await;
}
