//! When a caller that was refused may call again: the server says so, and callers of ours keep to it.
//!
//! A server that is full refuses a call before anything of it runs, and says in `grpc-retry-pushback-ms` when there may be room. Callers
//! that came back earlier would only be refused again, all of them, while those who are served have to wait for it.
//! Source: gRFC A6, "Pushback".

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// The metadata of a refusal that says it, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Nobody waits longer, whatever is said.
const LONGEST: Duration = Duration::from_secs(30);
/// As much longer each waits at most, at random, so that not all who were told the same come at the same moment.
const SPREAD: f64 = 0.25;

/// How long to wait before the call is made again, if the refusal says when it may be: at most 30 s, and up to a quarter more than
/// was said. Instances say it of calls of which nothing has run, so that any of them may be made again. What is no number, or a
/// negative one, says that it may not.
#[must_use]
pub fn come_again(status: &Status) -> Option<Duration> {
    let said = status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    let spread = 1.0 + rand::rng().random_range(0.0..SPREAD);
    Some(Duration::from_millis(said).min(LONGEST).mul_f64(spread).min(LONGEST))
}

/// A refusal with when to come again: of a call of which nothing has run.
#[must_use]
pub fn telling(mut refusal: Status, after: Duration) -> Status {
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    refusal.metadata_mut().insert(PUSHBACK, after.into());
    refusal
}

/// Makes a call, and makes it again whenever it was refused with a time to come again, until `until`. A call that may come again
/// later than that is not waited for: what it was told is returned at once. The call itself is not ended at `until`.
///
/// # Errors
/// What the last call has ended with.
pub async fn patiently<T>(until: Instant, mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        let refused = match call().await {
            Ok(answer) => return Ok(answer),
            Err(refused) => refused,
        };
        match come_again(&refused).map(|wait| Instant::now() + wait) {
            Some(again) if again < until => sleep_until(again).await,
            _ => return Err(refused),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
pub mod full;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use curator_proto::curator_api::CommitNodeRequest;
    use curator_proto::curator_api::curator_client::CuratorClient;
    use tonic::Code;

    use super::full::{Full, refused};
    use super::*;

    /// Commits through a server that refuses so many calls, and how long that took.
    async fn commit(refuses: u32, said: &'static str, within: Duration) -> (Result<(), Status>, Duration, u32) {
        let full = Full::new(refuses, said);
        let calls = full.calls.clone();
        let mut client = CuratorClient::new(full.serve());
        let began = Instant::now();
        let done = patiently(began + within, async || {
            client.commit_node(CommitNodeRequest::default()).await.map(drop)
        });
        let done = done.await;
        (done, began.elapsed(), calls.load(Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_told_when_to_come_again_comes_then_and_not_before() {
        let (done, took, calls) = commit(3, "1200", Duration::from_secs(60)).await;
        done.unwrap();
        assert_eq!(calls, 4);
        let (least, most) = (Duration::from_millis(3_600), Duration::from_millis(4_600));
        assert!(least <= took && took < most, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_no_time_left_to_come_again_is_told_at_once() {
        let (done, took, calls) = commit(u32::MAX, "1000", Duration::from_secs(4)).await;
        assert_eq!(done.unwrap_err().code(), Code::ResourceExhausted);
        assert!((3..5).contains(&calls), "{calls}");
        assert!(took <= Duration::from_secs(4), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_say_when_is_not_called_again() {
        for said in ["-1", "soon", "", "99999999999999999999"] {
            let (done, took, calls) = commit(1, said, Duration::from_secs(60)).await;
            assert_eq!(done.unwrap_err().code(), Code::ResourceExhausted, "{said}");
            assert_eq!((took, calls), (Duration::ZERO, 1), "{said}");
        }
    }

    #[test]
    fn nobody_waits_for_ever_and_not_all_come_at_the_same_moment() {
        let told = |said: &str| come_again(&refused(said)).unwrap();
        assert_eq!(told(&u64::MAX.to_string()), LONGEST);
        assert!(told("0").is_zero());
        let mut waits: Vec<_> = (0..100).map(|_| told("1000")).collect();
        assert!(waits.iter().all(|wait| (1_000..=1_250).contains(&wait.as_millis())));
        waits.sort_unstable();
        assert!(
            waits[99].saturating_sub(waits[0]) > Duration::from_millis(50),
            "{waits:?}"
        );
        assert_eq!(come_again(&Status::unavailable("")), None);
    }
}
