//! The lanes of a record, from what the harness has seen of its processes.

use std::time::{Duration, Instant};

use super::record::{Instance, Life, Member, Ms, RoleInterval, Span};
use crate::{CuratorProcess, EtcdCluster, Mark, Role};

/// A time in milliseconds.
pub fn ms(duration: Duration) -> Ms {
    Ms::try_from(duration.as_millis()).unwrap_or(Ms::MAX)
}

/// A span in milliseconds since the run began.
pub fn since<T>(begin: Instant, span: Span<T, Instant>) -> Span<T> {
    Span {
        from: ms(span.from.saturating_duration_since(begin)),
        to: ms(span.to.saturating_duration_since(begin)),
        what: span.what,
    }
}

/// The instances' lanes, from `begin` until `end`.
pub fn instances(curators: &[CuratorProcess], begin: Instant, end: Instant) -> Vec<Instance> {
    let place = |id: &str| curators.iter().position(|curator| curator.node_id() == id);
    curators
        .iter()
        .map(|curator| {
            let told = curator.lives().told();
            let said = curator
                .roles_since(Mark::START)
                .into_iter()
                .map(|change| (change.at, stand(&change.role, place)));
            // One that was killed is nothing until it says what it is.
            let ends = told
                .iter()
                .filter(|span| span.what == Life::Down)
                .map(|span| (span.from, RoleInterval::Undetermined));
            let mut changes: Vec<_> = said.chain(ends).collect();
            changes.sort_by_key(|(at, _)| *at);
            let next = changes.iter().skip(1).map(|(at, _)| *at).chain([end]);
            let stands = changes.iter().zip(next).map(|((from, what), to)| Span {
                from: *from,
                to,
                what: *what,
            });
            Instance {
                name: curator.name().to_owned(),
                stands: after(begin, stands),
                lives: after(begin, told.into_iter()),
            }
        })
        .collect()
}

/// The lanes of etcd's members.
pub fn members(etcd: &EtcdCluster, begin: Instant) -> Vec<Member> {
    (0..etcd.len())
        .map(|member| Member {
            name: format!("{}-{member}", etcd.options().name),
            lives: after(begin, etcd.lives(member).told().into_iter()),
        })
        .collect()
}

fn stand(role: &Role, place: impl Fn(&str) -> Option<usize>) -> RoleInterval {
    match role {
        Role::Undetermined => RoleInterval::Undetermined,
        Role::Leader { lock_revision, .. } => RoleInterval::Leader { term: *lock_revision },
        Role::Follower {
            leader, lock_revision, ..
        } => RoleInterval::Follower {
            leader: place(leader),
            term: *lock_revision,
        },
    }
}

fn after<T>(begin: Instant, spans: impl Iterator<Item = Span<T, Instant>>) -> Vec<Span<T>> {
    spans
        .filter(|span| span.to > begin)
        .map(|span| since(begin, span))
        .collect()
}
