//! The etcd cluster that the endpoints belong to: every response of etcd carries the id of its cluster.
//!
//! If the endpoints belong to several clusters (members each started alone, a member restored as a cluster of its own),
//! there would be an election, and a leader, in each cluster. So the process uses one cluster id for its lifetime: the
//! id that more than half of the endpoints report. While some endpoints do not respond, it is the only id reported, if
//! that cluster has at least as many voting members as there are endpoints. A response with another id is discarded.
//! With a cluster id file the id survives a restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::ResponseHeader;
use tracing::{error, info, warn};

use super::pin::{self, ClusterFileError};
use crate::telemetry;
use crate::{RefusalKind, StoreError};

/// The clusters of the endpoints, as far as known. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Vec<String>,
    /// The cluster id file.
    file: Option<PathBuf>,
    known: Mutex<Known>,
    /// Held while an id is selected.
    deciding: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    /// The id in use.
    id: Option<u64>,
    /// The last id that each endpoint reported.
    named: Vec<Option<u64>>,
}

/// Which id to use, given the reported ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Use this id.
    Use(u64),
    /// Use this id if its cluster has as many voting members as there are endpoints.
    Ask(u64),
    /// The endpoints belong to several clusters.
    Split,
    /// No endpoint has responded yet.
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
    /// With a file, uses the id in the file. If the file does not exist, it is created when an id is selected.
    ///
    /// # Errors
    /// If the file is unreadable or invalid.
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

    /// The id in use, if one is selected.
    pub(super) fn id(&self) -> Option<u64> {
        self.known().id
    }

    /// The last id that each endpoint reported.
    pub(super) fn named(&self) -> Vec<Option<u64>> {
        self.known().named.clone()
    }

    pub(super) fn is_known(&self) -> bool {
        self.known().id.is_some()
    }

    /// The lock to hold while an id is selected.
    pub(super) async fn deciding(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.deciding.lock().await
    }

    /// Accepts or discards a response of this endpoint. Before an id is selected, every response is accepted.
    ///
    /// # Errors
    /// If the response is from another cluster: a rejection once more than half of the endpoints are of other clusters.
    pub(super) fn check(&self, endpoint: usize, header: Option<&ResponseHeader>) -> Result<(), StoreError> {
        // A proxy that responds by itself reports no id.
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
            "{} is a member of etcd cluster {named:x}, but this instance uses cluster {id:x}: the endpoint is ignored",
            self.shared.endpoints[endpoint]
        );
        let others = known.named.iter().flatten().filter(|named| **named != id).count();
        if 2 * others > known.named.len() {
            let new_one = match &self.shared.file {
                Some(file) => format!("remove {} and restart this instance", file.display()),
                None => "restart this instance".to_owned(),
            };
            return Err(wrong_cluster(format!(
                "{reason}. {others} of {} endpoints are affected: configure the members of one cluster, or {new_one} \
                 to use the new cluster",
                known.named.len()
            )));
        }
        Err(StoreError::Unreachable { reason })
    }

    /// Selects the id from the reported ids; `Ok(Some(id))` requests a check of the number of its voting members.
    ///
    /// # Errors
    /// If the endpoints belong to several clusters and no cluster has more than half of them.
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
                    Some(id) => format!("{endpoint} is in cluster {id:x}"),
                    None => format!("{endpoint} does not respond"),
                });
                Err(wrong_cluster(format!(
                    "no etcd cluster has more than half of the endpoints ({}): were members started without \
                     --initial-cluster, or restored one by one? Configure the members of one cluster",
                    list.collect::<Vec<_>>().join(", ")
                )))
            }
        }
    }

    /// Selects the only reported id, given the number of its voting members.
    ///
    /// # Errors
    /// If there are too few voting members.
    pub(super) fn vouched(&self, id: u64, voters: usize) -> Result<(), StoreError> {
        let mut known = self.known();
        if voters >= known.named.len() {
            self.put_to_use(&mut known, id);
            return Ok(());
        }
        let answer = known.named.iter().flatten().count();
        Err(StoreError::Unreachable {
            reason: format!(
                "{answer} of {} etcd endpoints respond. Their cluster {id:x} has only {voters} voting members, so the \
                 other endpoints may belong to another cluster",
                known.named.len()
            ),
        })
    }

    fn put_to_use(&self, known: &mut Known, id: u64) {
        known.id = Some(id);
        info!(cluster = format!("{id:x}"), "etcd cluster selected");
        if let Some(file) = &self.shared.file
            && let Err(error) = pin::write(file, id)
        {
            warn!(
                file = %file.display(),
                %error,
                "cannot write the etcd cluster id file: after a restart another cluster may be selected"
            );
        }
        for endpoint in 0..known.named.len() {
            self.report(known, endpoint, None);
        }
    }

    /// Logs that an endpoint has moved to another cluster, or is back in the cluster in use.
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
                "etcd endpoint is a member of another etcd cluster and is ignored"
            );
            if 2 * foreign > known.named.len() {
                error!(
                    in_use = format!("{id:x}"),
                    "most etcd endpoints are members of another etcd cluster: this instance cannot lead or follow"
                );
            }
        } else if before.is_some() {
            info!(
                endpoint = url,
                "etcd endpoint is again a member of the etcd cluster in use"
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

/// Converts the error for a write that another cluster answered: the write may have been executed there.
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
            "etcd-0:2379 is in cluster a",
            "etcd-1:2379 is in cluster b",
            "etcd-2:2379 does not respond",
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
        let text = other.to_string();
        assert!(text.contains(&format!("remove {}", file.display())), "{text}");
        assert_eq!(next.named(), [Some(8)]);
        std::fs::remove_file(&file).unwrap();
    }
}
