//! Limits how many filters run at a time.
//!
//! Each evaluation needs a thread. There are a few, some for users and some for nodes, so that nodes cannot block
//! operators. Each caller runs one filter at a time, and few of its calls may wait. A turn lasts until the evaluation
//! ends, not until the call ends: the evaluation of a cancelled call stops soon.

use std::sync::Arc;
use std::time::Duration;

use curator_identity::pushback;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::auth::Caller;
use crate::leader::nodes::callers::{Call, Callers};
use crate::telemetry;

/// Number of filters that run at a time: for users, and for nodes.
const AT_A_TIME: usize = 2;
/// Maximum number of calls of one caller, running and waiting. All operators with the owner's key are one caller.
const OF_CALLER: usize = 64;

/// The retry delay sent to a refused caller: a filter takes at most two seconds.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The turns of one leader.
pub(in crate::leader) struct Turns {
    users: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
    callers: Callers,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            users: Arc::new(Semaphore::new(AT_A_TIME)),
            nodes: Arc::new(Semaphore::new(AT_A_TIME)),
            callers: Callers::new(1),
        }
    }
}

impl Turns {
    /// Waits for the caller's turn. Cancellation safe.
    pub(in crate::leader) async fn next(&self, caller: &Caller) -> Result<Turn, Status> {
        let call = self.callers.enter(caller, OF_CALLER).ok_or_else(|| {
            metrics::counter!(telemetry::FILTERS_REFUSED, "why" => "turns").increment(1);
            let refused = Status::resource_exhausted(format!(
                "filter: this caller already has {OF_CALLER} filtered calls in progress"
            ));
            pushback::with_pushback(refused, RETRY_AFTER)
        })?;
        let all = match caller {
            Caller::User { .. } => &self.users,
            Caller::Node { .. } | Caller::Anybody { .. } => &self.nodes,
        };
        // Take the caller's own permit first: a waiting caller then holds no thread.
        let closed = |_| Status::unavailable("lost leadership");
        let own = call.turns().acquire_owned().await.map_err(closed)?;
        let any = all.clone().acquire_owned().await.map_err(closed)?;
        Ok(Turn {
            _any: any,
            _own: own,
            _call: call,
        })
    }
}

/// A turn. It ends when it is dropped.
pub(in crate::leader) struct Turn {
    _any: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _call: Call,
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tonic::Code;

    use super::*;

    fn node(id: &str) -> Caller {
        Caller::Node {
            id: id.into(),
            public_key: None,
        }
    }

    fn owner() -> Caller {
        Caller::User {
            identity: "owner".into(),
        }
    }

    #[tokio::test]
    async fn no_number_of_nodes_keeps_a_user_waiting_and_no_node_has_two_turns() {
        let turns = Turns::default();
        let (a, b) = (node("a"), node("b"));
        let others: Vec<_> = (0..20).map(|number| node(&format!("c{number}"))).collect();
        let first = turns.next(&a).await.unwrap();
        let mut again = Box::pin(turns.next(&a));
        assert!(again.as_mut().now_or_never().is_none(), "one at a time");
        let other = turns.next(&b).now_or_never().expect("a thread is free").unwrap();
        let mut calls: Vec<_> = others.iter().map(|caller| Box::pin(turns.next(caller))).collect();
        assert!(calls.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
        let user = turns.next(&owner()).now_or_never().expect("at once").unwrap();
        drop((user, first, other));
        assert!(again.now_or_never().is_none(), "earlier calls have their turn first");
        let served = calls.iter_mut().filter_map(|call| call.as_mut().now_or_never()).count();
        assert!(served >= 2, "{served}");
        drop(calls);
        assert_eq!(turns.callers.count(), 0, "callers without calls take no memory");
    }

    #[tokio::test]
    async fn a_caller_has_a_few_calls_and_no_more() {
        let turns = Turns::default();
        let a = node("a");
        let mut calls: Vec<_> = (0..OF_CALLER).map(|_| Box::pin(turns.next(&a))).collect();
        let first = calls.remove(0).now_or_never().expect("at once");
        for call in &mut calls {
            assert!(call.as_mut().now_or_never().is_none());
        }
        let refused = turns.next(&a).await.err().expect("one too many");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(
            pushback::retry_delay(&refused).is_some(),
            "the refusal has a retry delay"
        );
        drop((first, calls));
        assert!(turns.next(&a).now_or_never().is_some_and(|turn| turn.is_ok()));
        assert_eq!(turns.callers.count(), 0);
    }
}
