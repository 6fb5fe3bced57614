//! The handle of an elector, as people use it, on an election that the test drives.

#![cfg(feature = "mock")]
#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::TokioClock;
use curator_election::store::StoreError;
use curator_election::{
    ElectionBackend, ElectionStatus, Elector, ElectorConfig, ElectorGone, ElectorHandle, FakeElection, LeaderObserver,
    Observed, PlainText, ProclaimError, Proclaimed, Reason, StepDown, WhileLeading,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A value that can change while its candidate stays.
#[derive(Clone, Debug, PartialEq)]
struct At(&'static str, u16);

impl curator_election::LeaderValue for At {
    fn candidate_id(&self) -> &str {
        self.0
    }

    fn encode(&self) -> Vec<u8> {
        format!("{}:{}", self.0, self.1).into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, curator_election::DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(curator_election::DecodeError::new)?;
        let (id, port) = text
            .split_once(':')
            .ok_or_else(|| curator_election::DecodeError::new("no port"))?;
        let id = if id == "me" { "me" } else { "other" };
        Ok(Self(id, port.parse().map_err(curator_election::DecodeError::new)?))
    }
}

struct Stage {
    fake: FakeElection,
    handle: ElectorHandle<At>,
    cancel: CancellationToken,
    running: JoinHandle<()>,
}

fn elector(fake: &FakeElection) -> Elector<At> {
    let config = ElectorConfig {
        clock: Arc::new(TokioClock::new()),
        seed: Some(1),
        ..ElectorConfig::default()
    };
    Elector::new(Arc::new(fake.clone()), &At("me", 1), config).unwrap()
}

fn run() -> Stage {
    let fake = FakeElection::new();
    let elector = elector(&fake);
    let (handle, cancel) = (elector.handle(), CancellationToken::new());
    let running = tokio::spawn(elector.run(cancel.clone()));
    Stage {
        fake,
        handle,
        cancel,
        running,
    }
}

async fn in_time<T>(done: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_TIMEOUT, done).await.expect("in time")
}

impl Stage {
    async fn until(&self, such: impl FnMut(&ElectionStatus<At>) -> bool) -> ElectionStatus<At> {
        let mut status = self.handle.status();
        in_time(status.wait_for(such)).await.unwrap().clone()
    }

    async fn values(&self) -> Vec<String> {
        let found = self.fake.candidates().await.unwrap();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        found.iter().map(|candidate| text(&candidate.value)).collect()
    }

    async fn stop(self) {
        self.cancel.cancel();
        in_time(self.running).await.unwrap();
        assert_eq!(self.handle.step_down().await, Err(ElectorGone));
        assert_eq!(self.handle.pause().await, Err(ElectorGone));
        assert_eq!(self.handle.leading().await.map(drop), Err(ElectorGone));
        let proclaimed = self.handle.proclaim(&At("me", 9)).await;
        assert!(matches!(proclaimed, Err(ProclaimError::Gone(_))), "{proclaimed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn handle_answers_before_the_elector_runs_and_after_it_is_dropped() {
    let fake = FakeElection::new();
    let elector = elector(&fake);
    let handle = elector.handle();
    assert_eq!(in_time(handle.step_down()).await, Ok(StepDown::NotLeader));
    assert_eq!(in_time(handle.pause()).await, Ok(()));
    assert!(matches!(
        in_time(handle.proclaim(&At("me", 2))).await,
        Ok(Proclaimed::Queued)
    ));
    handle.resume();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(elector.run(cancel.clone()));
    in_time(handle.leading()).await.unwrap();
    assert_eq!(fake.candidates().await.unwrap()[0].value, "me:2");
    cancel.cancel();
    running.await.unwrap();

    let never_run = self::elector(&fake);
    let handle = never_run.handle();
    drop(never_run);
    assert_eq!(in_time(handle.step_down()).await, Err(ElectorGone));
    assert_eq!(in_time(handle.pause()).await, Err(ElectorGone));
    assert_eq!(in_time(handle.leading()).await.map(drop), Err(ElectorGone));
}

/// A `Ref` of the status held over `step_down` would block the elector for ever.
#[tokio::test(start_paused = true)]
async fn current_status_is_kept_over_a_step_down() {
    let stage = run();
    in_time(stage.handle.leading()).await.unwrap();
    let current = stage.handle.current();
    let term = current.valid_term().unwrap();
    assert_eq!(in_time(stage.handle.step_down()).await, Ok(StepDown::Done));
    assert!(!term.is_valid());
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn work_is_cancelled_at_the_end_of_its_term() {
    let stage = run();
    let done = in_time(stage.handle.while_leading(|term| async move { term.is_valid() })).await;
    assert_eq!(done, Ok(WhileLeading::Done(true)));
    let (sender, dropped) = tokio::sync::oneshot::channel::<()>();
    let work = stage.handle.while_leading(|_| async move {
        let _held = sender;
        std::future::pending::<()>().await;
    });
    let end = async {
        tokio::task::yield_now().await;
        stage.fake.expire_leases();
    };
    let (ended, ()) = in_time(futures::future::join(work, end)).await;
    assert_eq!(ended, Ok(WhileLeading::TermEnded));
    dropped.await.expect_err("the work is dropped");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn paused_candidate_leaves_the_queue_and_follows() {
    let stage = run();
    let term = in_time(stage.handle.leading()).await.unwrap();
    in_time(stage.handle.pause()).await.unwrap();
    assert!(!term.is_valid());
    assert_eq!(stage.values().await, [] as [&str; 0], "the lease is revoked");
    stage
        .until(|status| *status == ElectionStatus::Undetermined(Reason::Paused))
        .await;
    stage.fake.other_leads("other:7");
    let status = stage.until(|status| status.leader_info().is_some()).await;
    assert_eq!(status.leader_info().unwrap().leader, At("other", 7));
    assert_eq!(in_time(stage.handle.step_down()).await, Ok(StepDown::NotLeader));
    // However long it takes, it does not campaign.
    tokio::time::sleep(WAIT_TIMEOUT).await;
    assert_eq!(stage.values().await, ["other:7"]);
    stage.handle.resume();
    in_time(stage.fake.queued(2)).await;
    stage.until(|status| status.leader_info().is_some()).await;
    stage.fake.others_leave();
    in_time(stage.handle.leading()).await.unwrap();
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn value_is_proclaimed_by_a_leader_at_once() {
    let stage = run();
    let term = in_time(stage.handle.leading()).await.unwrap();
    assert!(matches!(
        in_time(stage.handle.proclaim(&At("me", 2))).await,
        Ok(Proclaimed::Led)
    ));
    assert_eq!(stage.values().await, ["me:2"]);
    assert!(term.is_valid());
    let other = in_time(stage.handle.proclaim(&At("other", 2))).await;
    assert!(matches!(other, Err(ProclaimError::OtherCandidate { .. })), "{other:?}");
    // A later candidacy has it as well.
    assert_eq!(in_time(stage.handle.step_down()).await, Ok(StepDown::Done));
    in_time(stage.handle.leading()).await.unwrap();
    assert_eq!(stage.values().await, ["me:2"]);
    let failure = StoreError::Unreachable {
        reason: "cut off".into(),
    };
    stage.fake.fail(Some(failure));
    let failed = in_time(stage.handle.proclaim(&At("me", 3))).await;
    assert!(matches!(failed, Err(ProclaimError::Store(_))), "{failed:?}");
    stage.fake.fail(None);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn value_is_proclaimed_by_a_candidate_in_its_place() {
    let stage = run();
    stage.fake.other_leads("other:7");
    stage.until(|status| status.leader_info().is_some()).await;
    in_time(stage.fake.queued(2)).await;
    let before = stage.fake.candidates().await.unwrap()[1].create_revision;
    assert!(matches!(
        in_time(stage.handle.proclaim(&At("me", 2))).await,
        Ok(Proclaimed::Queued)
    ));
    let changed = async {
        while stage.values().await != ["other:7", "me:2"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(changed).await;
    assert_eq!(stage.fake.candidates().await.unwrap()[1].create_revision, before);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn observer_tells_each_change_without_a_candidacy() {
    let fake = FakeElection::new();
    let ttl = Duration::from_secs(10);
    let clock = Arc::new(TokioClock::new());
    let mut observer = LeaderObserver::<At>::new(Arc::new(fake.clone()), ttl, clock).unwrap();
    assert_eq!(in_time(observer.next()).await, Observed::NoLeader);
    fake.other_leads("other:7");
    let Observed::Leader(info) = in_time(observer.next()).await else {
        panic!("a leader")
    };
    assert_eq!(info.leader, At("other", 7));
    // Silence makes it stale, once.
    fake.fail(Some(StoreError::Unreachable {
        reason: "cut off".into(),
    }));
    assert_eq!(in_time(observer.next()).await, Observed::Stale);
    tokio::time::timeout(ttl * 3, observer.next())
        .await
        .expect_err("no change");
    fake.fail(None);
    fake.other_leads("nonsense");
    let Observed::Undecodable(_) = in_time(observer.next()).await else {
        panic!("an undecodable value")
    };
    assert_eq!(fake.candidates().await.unwrap().len(), 2);
}

/// Metrics carry the name of the election, where it has one.
#[test]
fn metrics_carry_the_name_of_the_election() {
    for (name, expected) in [
        (Some("jobs"), "{role=\"leader\",reason=\"elected\",election=\"jobs\"}"),
        (None, "{role=\"leader\",reason=\"elected\"}"),
    ] {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let led = async {
            let config = ElectorConfig {
                name: name.map(str::to_owned),
                ..ElectorConfig::default()
            };
            let elector = Elector::new(Arc::new(FakeElection::new()), &PlainText("me".into()), config).unwrap();
            let (handle, cancel) = (elector.handle(), CancellationToken::new());
            let lead = async {
                let term = handle.leading().await.unwrap();
                assert_eq!(term.election(), name);
                term.report_fenced_out();
                cancel.cancel();
            };
            tokio::join!(elector.run(cancel.clone()), lead);
        };
        metrics::with_local_recorder(&recorder, || runtime.block_on(led));
        let text = recorder.handle().render();
        assert!(
            text.contains(&format!("curator_role_changes_total{expected} 1")),
            "{text}"
        );
        let fenced_out = name.map_or(String::new(), |name| format!("{{election=\"{name}\"}}"));
        assert!(
            text.contains(&format!("curator_fenced_out_total{fenced_out} 1")),
            "{text}"
        );
    }
}
