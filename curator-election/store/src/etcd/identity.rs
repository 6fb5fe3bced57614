//! Which cluster the endpoints belong to: every answer of etcd bears its cluster's id.
//!
//! Endpoints of several clusters behind one list (members that were each started alone, a member that was restored as a cluster of
//! its own) would make an election in each of them, and so a leader in each. So one id is in use for as long as the process runs: the
//! one that more than half of the endpoints name, or, while some do not answer, the only one that is named, if its cluster has at
//! least as many voting members as there are endpoints. An answer with another id counts as none. With a file for it the id outlives
//! the process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::ResponseHeader;
use tracing::{error, info, warn};

use super::pin::{self, ClusterFileError};
use crate::telemetry;
use crate::{RefusalKind, StoreError};

/// What is known of the clusters behind the endpoints. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Vec<String>,
    /// Where the id in use is kept.
    file: Option<PathBuf>,
    known: Mutex<Known>,
    /// One decision at a time.
    deciding: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    /// The id in use.
    id: Option<u64>,
    /// What each endpoint named last.
    named: Vec<Option<u64>>,
}

/// Which id to use, by what the endpoints name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// This one.
    Use(u64),
    /// This one, if its cluster has as many voting members as there are endpoints.
    Ask(u64),
    /// None: the endpoints are of several clusters.
    Split,
    /// None yet: no endpoint has answered.
    Silence,
}

fn choose(named: &[Option<u64>]) -> Choice {
    let ids = || named.iter().flatten();
    let of = |id: u64| ids().filter(|named| **named == id).count();
    if let Some(id) = ids().find(|id| 2 * of(**id) > named.len()) {
        return Choice::Use(*id);
    }
    match ids().next() {
        None => Choice::Silence,
        Some(first) if of(*first) == ids().count() => Choice::Ask(*first),
        Some(_) => Choice::Split,
    }
}

impl Identity {
    /// With a file, the id in it is the one in use; if there is no such file yet, it is made once an id is chosen.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn new(endpoints: Vec<String>, file: Option<PathBuf>) -> Result<Self, ClusterFileError> {
        let named = vec![None; endpoints.len()];
        let id = file.as_deref().map(pin::read).transpose()?.flatten();
        Ok(Self {
            shared: Arc::new(Shared {
                endpoints,
                file,
                known: Mutex::new(Known { id, named }),
                deciding: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// The id in use, if one was chosen.
    pub(super) fn id(&self) -> Option<u64> {
        self.known().id
    }

    /// What each endpoint has named last.
    pub(super) fn named(&self) -> Vec<Option<u64>> {
        self.known().named.clone()
    }

    pub(super) fn is_known(&self) -> bool {
        self.known().id.is_some()
    }

    /// Held by whoever decides which id to use.
    pub(super) async fn deciding(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.deciding.lock().await
    }

    /// Whether an answer of this endpoint counts. Before an id is in use, each does.
    ///
    /// # Errors
    /// It is from another cluster. A refusal, once that holds for more than half of the endpoints.
    pub(super) fn check(&self, endpoint: usize, header: Option<&ResponseHeader>) -> Result<(), StoreError> {
        // A proxy that answers by itself names none.
        match header.map_or(0, ResponseHeader::cluster_id) {
            0 => Ok(()),
            named => self.check_id(endpoint, named),
        }
    }

    fn check_id(&self, endpoint: usize, named: u64) -> Result<(), StoreError> {
        let mut known = self.known();
        let before = known.named[endpoint].replace(named);
        let Some(id) = known.id else {
            return Ok(());
        };
        if before != Some(named) {
            self.report(&known, endpoint, before);
        }
        if named == id {
            return Ok(());
        }
        let reason = format!(
            "{} is a member of etcd cluster {named:x}, and this instance uses cluster {id:x}: it is not used",
            self.shared.endpoints[endpoint]
        );
        let others = known.named.iter().flatten().filter(|named| **named != id).count();
        if 2 * others > known.named.len() {
            let new_one = match &self.shared.file {
                Some(file) => format!("remove {} and restart this instance", file.display()),
                None => "restart this instance".to_owned(),
            };
            return Err(wrong_cluster(format!(
                "{reason}; so it is with {others} of {} endpoints: name the members of one cluster, or {new_one} to use the new one",
                known.named.len()
            )));
        }
        Err(StoreError::Unreachable { reason })
    }

    /// Chooses the id from what the endpoints have named; `Ok(Some(id))` asks for the number of its voting members.
    ///
    /// # Errors
    /// The endpoints are of several clusters, of which none has more than half of them.
    pub(super) fn choose(&self) -> Result<Option<u64>, StoreError> {
        let mut known = self.known();
        match choose(&known.named) {
            Choice::Use(id) => {
                self.put_to_use(&mut known, id);
                Ok(None)
            }
            Choice::Ask(id) => Ok(Some(id)),
            Choice::Silence => Ok(None),
            Choice::Split => {
                let endpoints = self.shared.endpoints.iter().zip(&known.named);
                let list = endpoints.map(|(endpoint, named)| match named {
                    Some(id) => format!("{endpoint} is of {id:x}"),
                    None => format!("{endpoint} does not answer"),
                });
                Err(wrong_cluster(format!(
                    "no etcd cluster has more than half of the endpoints ({}): were members started without --initial-cluster, \
                     or restored one by one? Name the members of one cluster",
                    list.collect::<Vec<_>>().join(", ")
                )))
            }
        }
    }

    /// What follows from the number of voting members of the only cluster that is named.
    ///
    /// # Errors
    /// They are too few.
    pub(super) fn vouched(&self, id: u64, voters: usize) -> Result<(), StoreError> {
        let mut known = self.known();
        if voters >= known.named.len() {
            self.put_to_use(&mut known, id);
            return Ok(());
        }
        let answer = known.named.iter().flatten().count();
        Err(StoreError::Unreachable {
            reason: format!(
                "{answer} of {} etcd endpoints answer, of cluster {id:x}, which has {voters} voting members: whether the others are of \
                 the same cluster is not known",
                known.named.len()
            ),
        })
    }

    fn put_to_use(&self, known: &mut Known, id: u64) {
        known.id = Some(id);
        info!(cluster = format!("{id:x}"), "the etcd cluster in use");
        if let Some(file) = &self.shared.file
            && let Err(error) = pin::write(file, id)
        {
            warn!(
                file = %file.display(),
                %error,
                "the id of the etcd cluster in use could not be kept: after a restart another cluster may be used"
            );
        }
        for endpoint in 0..known.named.len() {
            self.report(known, endpoint, None);
        }
    }

    /// Says that an endpoint is of another cluster, or is not any more.
    fn report(&self, known: &Known, endpoint: usize, before: Option<u64>) {
        let (Some(id), Some(named)) = (known.id, known.named[endpoint]) else {
            return;
        };
        let foreign = known.named.iter().flatten().filter(|named| **named != id).count();
        telemetry::foreign_endpoints(foreign);
        let url = &self.shared.endpoints[endpoint];
        if named != id {
            warn!(
                endpoint = url,
                cluster = format!("{named:x}"),
                in_use = format!("{id:x}"),
                "this endpoint is a member of another etcd cluster and is not used"
            );
            if 2 * foreign > known.named.len() {
                error!(
                    in_use = format!("{id:x}"),
                    "most endpoints are members of another etcd cluster: this instance cannot lead or follow"
                );
            }
        } else if before.is_some() {
            info!(
                endpoint = url,
                "this endpoint is a member of the etcd cluster in use again"
            );
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that holds the lock can panic half-way.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) const fn wrong_cluster(reason: String) -> StoreError {
    StoreError::Refused {
        kind: RefusalKind::WrongCluster,
        reason,
    }
}

/// An answer to a write from another cluster: the write is not in this one, but in that one it may be.
pub(super) fn written_elsewhere(error: StoreError) -> StoreError {
    match error {
        StoreError::Unreachable { reason } => StoreError::Unknown { reason },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_of_more_than_half_of_the_endpoints_is_used() {
        let (a, b, c, none) = (Some(1), Some(2), Some(3), None);
        for (named, choice) in [
            (&[a][..], Choice::Use(1)),
            (&[a, a, b], Choice::Use(1)),
            (&[b, a, a], Choice::Use(1)),
            (&[a, none, a], Choice::Use(1)),
            (&[a, none, none], Choice::Ask(1)),
            (&[a, none], Choice::Ask(1)),
            (&[a, b], Choice::Split),
            (&[a, b, none], Choice::Split),
            (&[a, b, c], Choice::Split),
            (&[a, a, b, b], Choice::Split),
            (&[none, none], Choice::Silence),
            (&[], Choice::Silence),
        ] {
            assert_eq!(choose(named), choice, "{named:?}");
        }
    }

    fn identity(named: &[Option<u64>]) -> Identity {
        let endpoints = (0..named.len()).map(|number| format!("http://etcd-{number}:2379"));
        let identity = Identity::new(endpoints.collect(), None).unwrap();
        identity.known().named = named.to_vec();
        identity
    }

    #[test]
    fn answer_of_another_cluster_counts_as_none_and_of_most_endpoints_as_refusal() {
        let identity = identity(&[Some(1), Some(1), None]);
        assert_eq!(identity.choose().unwrap(), None);
        identity.check_id(0, 1).unwrap();
        let one = identity.check_id(2, 2).unwrap_err();
        assert!(matches!(one, StoreError::Unreachable { .. }), "{one}");
        let most = identity.check_id(1, 2).unwrap_err();
        assert_eq!(most.refusal(), Some(RefusalKind::WrongCluster), "{most}");
        // It is back.
        identity.check_id(1, 1).unwrap();
        let one = identity.check_id(2, 2).unwrap_err();
        assert_eq!(one.refusal(), None, "{one}");
    }

    #[test]
    fn endpoints_of_several_clusters_are_named() {
        let split = identity(&[Some(0xa), Some(0xb), None]).choose().unwrap_err();
        assert_eq!(split.refusal(), Some(RefusalKind::WrongCluster));
        let text = split.to_string();
        for part in [
            "etcd-0:2379 is of a",
            "etcd-1:2379 is of b",
            "etcd-2:2379 does not answer",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn cluster_with_enough_members_vouches_for_silent_endpoints() {
        let identity = identity(&[Some(1), None, None]);
        assert_eq!(identity.choose().unwrap(), Some(1));
        // It was started alone.
        assert!(identity.vouched(1, 1).is_err() && !identity.is_known());
        identity.vouched(1, 3).unwrap();
        assert!(identity.is_known());
    }

    #[test]
    fn id_outlives_the_process_in_a_file() {
        let file = std::env::temp_dir().join(format!("curator-identity-{}", std::process::id()));
        let endpoints = || vec!["http://etcd-0:2379".to_owned()];
        let first = Identity::new(endpoints(), Some(file.clone())).unwrap();
        assert!(!first.is_known());
        first.check_id(0, 7).unwrap();
        first.choose().unwrap();
        let next = Identity::new(endpoints(), Some(file.clone())).unwrap();
        assert_eq!(next.id(), Some(7));
        next.check_id(0, 7).unwrap();
        let other = next.check_id(0, 8).unwrap_err();
        assert_eq!(other.refusal(), Some(RefusalKind::WrongCluster));
        let told = other.to_string();
        assert!(told.contains(&format!("remove {}", file.display())), "{told}");
        assert_eq!(next.named(), [Some(8)]);
        std::fs::remove_file(&file).unwrap();
    }
}
