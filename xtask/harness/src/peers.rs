//! The network between the members of a cluster: each member is reached by the others through a proxy, and each
//! connection is ruled by the faults between the two members that it connects.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::lock;
use super::ports::Port;
use super::proxy::{Direction, Faults, Flow, Rules, TcpProxy};
use super::socket_owner::owner;
use crate::error::Result;

/// How often the system is asked who connected, and the pause between. A process that has just connected is in the
/// table already, but the tables are not read in one instant.
const ASK: u32 = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// The proxies in front of the members' peer ports. A link is named by the member that sends and the one that receives.
#[derive(Debug)]
pub struct PeerNetwork {
    proxies: Vec<TcpProxy>,
    links: Arc<Links>,
    flows: Mutex<Vec<Vec<Flow>>>,
}

#[derive(Debug)]
struct Links {
    /// The number of each member's process, 0 while it does not run.
    pids: Vec<AtomicU32>,
    /// The faults of connections, by who opened them and to whom.
    pairs: Vec<Vec<Arc<Faults>>>,
    /// The faults of connections whose opener is not known, by the receiver.
    unknown: Vec<Arc<Faults>>,
    strangers: AtomicU32,
}

impl PeerNetwork {
    /// One proxy for each of the members' peer addresses, on `ports`.
    ///
    /// # Errors
    /// When a proxy cannot listen.
    pub fn start(ports: Vec<Port>, targets: &[SocketAddr]) -> Result<Self> {
        let mut network = Self::without_proxies(targets.len());
        for (to, (port, target)) in ports.into_iter().zip(targets).enumerate() {
            let Rules { faults, choose } = network.rules(to);
            network
                .proxies
                .push(TcpProxy::with_chooser(port, *target, faults, choose)?);
        }
        Ok(network)
    }

    /// For so many members whose proxies somebody else starts, under [`PeerNetwork::rules`].
    pub fn without_proxies(count: usize) -> Self {
        let row = || (0..count).map(|_| Arc::new(Faults::default())).collect::<Vec<_>>();
        let links = Arc::new(Links {
            pids: (0..count).map(|_| AtomicU32::new(0)).collect(),
            pairs: (0..count).map(|_| row()).collect(),
            unknown: row(),
            strangers: AtomicU32::new(0),
        });
        Self {
            proxies: Vec::new(),
            links,
            flows: Mutex::new(vec![vec![Flow::Pass; count]; count]),
        }
    }

    /// What rules the connections of the proxy before a member.
    pub fn rules(&self, to: usize) -> Rules {
        let links = Arc::clone(&self.links);
        Rules {
            faults: Arc::clone(&self.links.unknown[to]),
            choose: Arc::new(move |client, server| links.between(client, server, to)),
        }
    }

    fn len(&self) -> usize {
        self.links.pids.len()
    }

    /// The URL under which the others reach a member.
    pub fn url(&self, member: usize) -> String {
        self.proxies[member].url()
    }

    /// Tells which process a member is now. `None` when it does not run.
    pub fn set_pid(&self, member: usize, pid: Option<u32>) {
        self.links.pids[member].store(pid.unwrap_or(0), Ordering::SeqCst);
    }

    /// Switches what one member sends to another, whichever of the two opened the connection.
    pub fn set(&self, from: usize, to: usize, flow: Flow) {
        let mut flows = lock(&self.flows);
        flows[from][to] = flow;
        self.links.pairs[from][to].set(Direction::ToServer, flow);
        self.links.pairs[to][from].set(Direction::ToClient, flow);
        // Someone whom we do not know could be any of them: while anything is held, so is he.
        let any = flows.iter().flatten().any(|flow| *flow == Flow::Hold);
        for faults in &self.links.unknown {
            faults.set_both(if any { Flow::Hold } else { Flow::Pass });
        }
    }

    /// What happens now to what one member sends to another.
    pub fn flow(&self, from: usize, to: usize) -> Flow {
        lock(&self.flows)[from][to]
    }

    /// Cuts a member off from all others, in both directions.
    pub fn isolate(&self, member: usize) {
        for other in (0..self.len()).filter(|other| *other != member) {
            self.set(member, other, Flow::Hold);
            self.set(other, member, Flow::Hold);
        }
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        for from in 0..self.len() {
            for to in (0..self.len()).filter(|to| *to != from) {
                self.set(from, to, Flow::Pass);
            }
        }
    }

    /// How many connections came from someone who could not be told, for instance because he had ended by then.
    pub fn strangers(&self) -> u32 {
        self.links.strangers.load(Ordering::SeqCst)
    }
}

impl Links {
    fn between(&self, client: SocketAddr, server: SocketAddr, to: usize) -> Arc<Faults> {
        for asked in 0..ASK {
            if asked > 0 {
                thread::sleep(PAUSE);
            }
            let members: Vec<_> = self
                .pids
                .iter()
                .map(|pid| pid.load(Ordering::SeqCst))
                .enumerate()
                .filter(|(member, pid)| *pid != 0 && *member != to)
                .collect();
            if let Some(from) = owner(client, server, &members) {
                return Arc::clone(&self.pairs[from][to]);
            }
        }
        self.strangers.fetch_add(1, Ordering::SeqCst);
        Arc::clone(&self.unknown[to])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_member_neither_hears_nor_is_heard() {
        let ports = || (0..3).map(|_| Port::reserve()).collect::<Result<Vec<_>>>().unwrap();
        let targets = ports();
        let addresses: Vec<_> = targets.iter().map(Port::address).collect();
        let network = PeerNetwork::start(ports(), &addresses).unwrap();
        let held = || {
            let pairs = (0..3).flat_map(|from| (0..3).map(move |to| (from, to)));
            pairs
                .filter(|(from, to)| network.flow(*from, *to) == Flow::Hold)
                .collect::<Vec<_>>()
        };
        network.isolate(1);
        assert_eq!(held(), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        network.heal();
        assert_eq!(held(), []);
    }
}
