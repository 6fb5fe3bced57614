//! Retry after a server pushback, as in gRFC A6, "Pushback".
//!
//! A server at its limits refuses a call before any of it runs, and gives a delay in `grpc-retry-pushback-ms`. Earlier
//! retries would only be refused again, and slow down the calls that are served.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// The metadata key of the delay, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Maximum delay, whatever the server asks for.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Maximum random addition to the delay, as a fraction, so that clients do not retry at the same moment.
const MAX_JITTER: f64 = 0.25;

/// The delay before a refused call may be retried, if the server gave one: at most 30 s, with up to a quarter of
/// jitter. Instances give a delay only for calls of which nothing has run, so any such call may be retried. An invalid
/// or negative number means: do not retry.
#[must_use]
pub fn retry_delay(status: &Status) -> Option<Duration> {
    let said = status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    let spread = 1.0 + rand::rng().random_range(0.0..MAX_JITTER);
    Some(
        Duration::from_millis(said)
            .min(MAX_DELAY)
            .mul_f64(spread)
            .min(MAX_DELAY),
    )
}

/// Adds a delay to the refusal of a call of which nothing has run.
#[must_use]
pub fn with_pushback(mut refusal: Status, after: Duration) -> Status {
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    refusal.metadata_mut().insert(PUSHBACK, after.into());
    refusal
}

/// Makes a call and retries it whenever it is refused with a delay, until `until`. If the delay ends after `until`, the
/// refusal is returned at once. A running call is not cancelled at `until`.
///
/// # Errors
/// The status of the last call.
pub async fn with_retries<T>(until: Instant, mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        let refused = match call().await {
            Ok(answer) => return Ok(answer),
            Err(refused) => refused,
        };
        match retry_delay(&refused).map(|wait| Instant::now() + wait) {
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
        let done = with_retries(began + within, async || {
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
        let told = |said: &str| retry_delay(&refused(said)).unwrap();
        assert_eq!(told(&u64::MAX.to_string()), MAX_DELAY);
        assert!(told("0").is_zero());
        let mut waits: Vec<_> = (0..100).map(|_| told("1000")).collect();
        assert!(waits.iter().all(|wait| (1_000..=1_250).contains(&wait.as_millis())));
        waits.sort_unstable();
        assert!(
            waits[99].saturating_sub(waits[0]) > Duration::from_millis(50),
            "{waits:?}"
        );
        assert_eq!(retry_delay(&Status::unavailable("")), None);
    }
}
