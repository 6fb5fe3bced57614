//! The challenge: how a dead leader is replaced before its lease expires.
//!
//! etcd ends a lease late: TTL + 1 s after the last renewal, and a whole TTL anew after each election of etcd's own
//! leader. A challenge replaces a dead leader within the *failover limit* L (1 s by default) and costs no write while
//! all is well.
//!
//! # Keys
//! Beside its lock key `K = <prefix>/<lease>` each candidate puts a challenge key `B = <prefix>-challenge/<lease>` in
//! the same transaction and under the same lease. `-` sorts before `/`, so B is outside the range of the candidates:
//! Go's library and `etcdctl elect` do not see it. A candidate without B (Go, an older version, the limit off, a user
//! that may not write B) cannot be challenged and leads for as long as its lease.
//!
//! # The leader ([`Confirmations`])
//! Every L/4 the leader *confirms* its term: it takes the time `s`, and then reads K and B in one linearizable
//! transaction. If K still has the create revision of the term and B is clear, the term is valid until `s + L - m`,
//! with the margin `m = max(L/10, 100 ms)`. If B is challenged, the leader refutes: it puts B clear again, guarded by
//! K's create revision and B's mod revision. The acknowledgement counts from the sending of that write. Beyond the
//! deadline the term is *suspended*: nothing is done in its name, and the next confirmation resumes it. The deadline of
//! the lease ends the term, as without a challenge.
//!
//! # The candidates ([`Challenger`])
//! A candidate that suspects the oldest candidate T puts B of T challenged, guarded by the create revisions of K of T
//! and of its own K, and by B's mod revision. Let that write have the revision `r`. After the receipt of its
//! acknowledgement the candidate waits for `W = L + m`, with the L that B of T states. Then it deletes K and B of T,
//! guarded by K's create revision, by `mod(B) = r` and by its own K. A challenge of another candidate is adopted: the
//! wait then counts from the receipt of the read that found it.
//!
//! # Why at most one term is valid
//! Let the challenge be committed at the time `q`, and let the deposing transaction be committed at `d`. It proves that
//! B was at revision `r` from `q` to `d`. Consider a confirmation that the leader may count.
//! - It was executed before `q`. Then it was sent before `q`, and the term is valid until `q + L - m` at most.
//! - It was executed after `q`. A read then saw the challenge and does not count, and a refutation would have changed
//!   the mod revision of B.
//!
//! The candidate's wait begins after `q`, so `d >= q + L + m` by its clock. The two margins cover clocks whose rates
//! differ by 10 % each. So the deadline of the term has passed at `d`, and no later answer can move it. Nothing depends
//! on the freshness of watches, on the order of answers, or on who suspects whom. A clock that stands still while the
//! host runs (a paused virtual machine) breaks the promise, as it does for a lease; the guard of each access holds
//! nevertheless.
//!
//! # Why trouble of etcd changes no leader
//! The wait of a candidate counts only the time between two of its polls that were answered in short succession
//! (1.5 L/4). While etcd does not answer, nobody's silence is counted; the leader is suspended and resumes with its
//! next confirmation.

mod challenger;
mod confirmation;
mod limit;
mod record;

pub(crate) use self::challenger::{Challenger, Found, Place, Step, Target};
pub(crate) use self::confirmation::{Confirmations, Outcome, RefutationCause};
pub use self::limit::{DEFAULT_FAILOVER_LIMIT, MIN_FAILOVER_LIMIT};
pub(crate) use self::limit::{Limit, effective_limit};
pub use self::record::{ChallengeRecord, ChallengeState, RecordError, Standing, StoredRecord};
