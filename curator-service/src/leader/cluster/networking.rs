//! A node's part of the cluster network: its WireGuard key and its prefixes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use curator_proto::common::NodeClusterNetworking;
use curator_proto::curator_api::{UpdateNodeClusterNetworkingRequest, UpdateNodeClusterNetworkingResponse};
use prost::Message;
use tonic::{Code, Status};

use crate::leader::Leader;
use crate::leader::nodes::pace::Kind;
use crate::leader::nodes::{lookup, territory};
use crate::validate::{Invalid, cluster_network_prefix, wireguard_key};

/// Maximum number of prefixes of a node.
const MAX_PREFIXES: usize = 1_024;
/// Maximum number of remembered keys whose write has an unknown outcome.
const MAX_DOUBTFUL: usize = 1_024;

impl Leader {
    /// Updates the networking of the calling node, within the node's write rate limit.
    pub(in crate::leader) async fn change_node_cluster_networking(
        &self,
        caller: &str,
        request: UpdateNodeClusterNetworkingRequest,
    ) -> Result<UpdateNodeClusterNetworkingResponse, Status> {
        self.state.ready().await?;
        let bytes = match self.state.view().node(caller) {
            Some(Ok(node)) => node.stored_bytes() + request.encoded_len(),
            _ => 0,
        };
        self.pace.turn(caller, Kind::Networking, bytes).await?;
        self.update_node_cluster_networking(caller, request).await
    }

    /// Replaces the key and the prefixes of the calling node.
    pub(in crate::leader) async fn update_node_cluster_networking(
        &self,
        caller: &str,
        request: UpdateNodeClusterNetworkingRequest,
    ) -> Result<UpdateNodeClusterNetworkingResponse, Status> {
        let asked = request
            .clusternet
            .ok_or_else(|| Invalid::new("clusternet", "required"))?;
        let key = wireguard_key(&asked.wireguard_pubkey)?;
        // Two nodes must not share a key, which no condition on a single record can express. All writes of the term
        // pass through here, so it suffices that no two writes of the same key run at a time.
        let claim = self.claims.claim(&key, caller)?;
        // The same holds for prefixes: an overlapping prefix is checked after the other is written.
        let _turn = if asked.prefixes.is_empty() {
            None
        } else {
            Some(self.prefixes.lock().await)
        };
        let done = self
            .state
            .transact(|tx| {
                if tx.peek().wireguard_owners(&key).any(|owner| owner != caller) {
                    return Err(taken());
                }
                let mut node = lookup::node(tx, caller)?;
                if node.message().status.is_none() {
                    return Err(Status::failed_precondition(format!(
                        "node {caller} has not reported its status yet"
                    )));
                }
                if asked.prefixes.len() > MAX_PREFIXES {
                    return Err(Invalid::new("clusternet.prefixes", "must have at most 1,024 entries").into());
                }
                let own = node.external_address();
                let prefixes = asked.prefixes.iter();
                let prefixes = prefixes.map(|prefix| cluster_network_prefix(&prefix.cidr, own));
                let prefixes: Vec<_> = prefixes.collect::<Result<_, _>>()?;
                let networking = Some(NodeClusterNetworking {
                    wireguard_pubkey: key.clone(),
                    prefixes: asked.prefixes.clone(),
                });
                if node.message().clusternet == networking {
                    return Ok(UpdateNodeClusterNetworkingResponse {});
                }
                territory::check_prefixes(tx.peek(), caller, &prefixes)?;
                node.message_mut().clusternet = networking;
                lookup::save(node, tx)?;
                Ok(UpdateNodeClusterNetworkingResponse {})
            })
            .await;
        if !matches!(&done, Err(status) if status.code() == Code::Unavailable) {
            claim.give_up();
        }
        done
    }
}

fn taken() -> Status {
    Status::invalid_argument("clusternet.wireguard_pubkey: already used by another node")
}

/// The keys that are being written.
#[derive(Clone, Default)]
pub(in crate::leader) struct KeyReservations(Arc<Mutex<Claimed>>);

#[derive(Default)]
struct Claimed {
    /// The owner of each key, and the number of its calls.
    owners: HashMap<String, (String, usize)>,
    /// Keys of calls that ended with an unknown outcome, oldest first.
    doubtful: VecDeque<String>,
}

impl KeyReservations {
    /// Reserves a key for a node while it exists.
    fn claim(&self, key: &str, node: &str) -> Result<KeyReservation, Status> {
        let mut claimed = self.claimed();
        let (owner, calls) = claimed
            .owners
            .entry(key.to_owned())
            .or_insert_with(|| (node.to_owned(), 0));
        if owner != node {
            return Err(taken());
        }
        *calls += 1;
        Ok(KeyReservation {
            claims: self.clone(),
            key: key.to_owned(),
            doubtful: true,
        })
    }

    fn claimed(&self) -> MutexGuard<'_, Claimed> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, key: &str) {
        let mut claimed = self.claimed();
        if let Some((_, calls)) = claimed.owners.get_mut(key) {
            *calls -= 1;
            if *calls == 0 {
                claimed.owners.remove(key);
            }
        }
    }
}

/// Unless released, the key stays reserved for the node: the write may have succeeded and become visible later. This is
/// the case when the store does not answer, or the call is cancelled during the write.
struct KeyReservation {
    claims: KeyReservations,
    key: String,
    doubtful: bool,
}

impl KeyReservation {
    /// Releases the reservation: the outcome is known, and the state shows it.
    fn give_up(mut self) {
        self.doubtful = false;
    }

    fn keep(&self) {
        let oldest = {
            let mut claimed = self.claims.claimed();
            claimed.doubtful.push_back(self.key.clone());
            if claimed.doubtful.len() > MAX_DOUBTFUL {
                claimed.doubtful.pop_front()
            } else {
                None
            }
        };
        if let Some(oldest) = oldest {
            self.claims.release(&oldest);
        }
    }
}

impl Drop for KeyReservation {
    fn drop(&mut self) {
        if self.doubtful {
            self.keep();
        } else {
            self.claims.release(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_claimed_by_one_node_at_a_time() {
        let claims = KeyReservations::default();
        let one = claims.claim("k", "a").expect("free");
        let again = claims.claim("k", "a").expect("its own");
        one.give_up();
        assert!(claims.claim("k", "b").is_err());
        again.give_up();
        drop(claims.claim("k", "b").expect("free again"));
        assert!(claims.claim("k", "a").is_err(), "it may have been written");
        for number in 0..MAX_DOUBTFUL {
            drop(claims.claim(&format!("k{number}"), "c").expect("free"));
        }
        claims.claim("k", "a").expect("forgotten").give_up();
    }
}
