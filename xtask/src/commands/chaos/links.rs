//! What lies between the hosts of a cluster, and how it is cut: proxies on loopback, or networks of their own.
use std::net::SocketAddr;

use curator_harness::error::Result;
use curator_harness::{
    CuratorProcess, Direction, EtcdCluster, Flow, Host, Hosts, Link, PeerNetwork, TcpProxy, proxy::address_of,
};

use super::schedule::{Fault, HOSTS, LinkFault, Who};

/// All of it.
pub(crate) enum Links {
    /// All are on loopback, with a proxy between any two that speak with each other.
    Proxies(Proxies),
    /// Each instance and its member of etcd are on a host of their own, and so are the callers.
    Hosts(Networks),
}

impl Links {
    /// Cuts what a fault says, in which no leader is left.
    pub(super) fn cut(&mut self, fault: Fault, etcd: &EtcdCluster, curators: &[CuratorProcess]) -> Result<()> {
        match self {
            Self::Proxies(proxies) => proxies.cut(fault, etcd, curators),
            Self::Hosts(networks) => networks.cut(fault),
        }
    }

    /// Undoes what [`Links::cut`] has done.
    pub(super) fn heal(&mut self, fault: Fault, etcd: &EtcdCluster, curators: &[CuratorProcess]) -> Result<()> {
        match self {
            Self::Proxies(proxies) => proxies.heal(fault, etcd, curators),
            Self::Hosts(networks) => networks.heal(fault),
        }
    }

    /// An instance is another process now.
    pub(super) fn set_pid(&self, instance: usize, pid: u32) {
        if let Self::Proxies(proxies) = self {
            proxies.network.set_pid(instance, Some(pid));
        }
    }

    /// The fault as it is between these.
    pub(super) fn meant(&self, fault: Fault) -> Fault {
        match self {
            Self::Proxies(_) => fault,
            Self::Hosts(_) => fault.between_hosts(),
        }
    }

    /// Where the callers reach an instance.
    pub(crate) fn door(&self, curator: &CuratorProcess, number: usize) -> SocketAddr {
        match self {
            Self::Proxies(proxies) => proxies.doors[number].address(),
            Self::Hosts(_) => curator.address(),
        }
    }

    /// The host of the callers, or of an instance and its member.
    pub(crate) fn host(&self, number: usize) -> Option<&Host> {
        match self {
            Self::Proxies(_) => None,
            Self::Hosts(networks) => networks.hosts.all().get(number),
        }
    }
}

/// Proxies between any two that speak with each other.
pub(crate) struct Proxies {
    /// Between the instances.
    pub(super) network: PeerNetwork,
    /// From each instance to each member.
    stores: Vec<Vec<TcpProxy>>,
    /// From the callers to each instance.
    doors: Vec<TcpProxy>,
}

impl Proxies {
    pub(super) fn start(etcd: &EtcdCluster) -> Result<Self> {
        let stores = (0..HOSTS)
            .map(|_| {
                let proxy = |member| TcpProxy::start(address_of(&etcd.direct_client_url(member))?);
                (0..HOSTS).map(proxy).collect()
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            network: PeerNetwork::without_proxies(HOSTS),
            stores,
            doors: Vec::new(),
        })
    }

    /// Where an instance reaches a member.
    pub(super) fn store(&self, instance: usize, member: usize) -> String {
        self.stores[instance][member].url()
    }

    /// The next instance, which the callers shall reach.
    pub(super) fn open(&mut self, curator: &CuratorProcess) -> Result<()> {
        self.doors.push(TcpProxy::start(curator.address())?);
        Ok(())
    }

    fn cut(&self, fault: Fault, etcd: &EtcdCluster, curators: &[CuratorProcess]) -> Result<()> {
        match fault {
            Fault::CutStore { instance, member, way } => cut(&self.stores[instance][member], way),
            Fault::CutOff {
                who: Who::Number(at),
                way,
            } => self.stores[at].iter().for_each(|store| cut(store, way)),
            Fault::CutInstance {
                to: Who::Number(to),
                way: LinkFault::Reset,
            } => curators[to].proxy()?.refuse(),
            Fault::CutInstance {
                to: Who::Number(to),
                way,
            } => {
                for other in (0..HOSTS).filter(|other| *other != to) {
                    if way != LinkFault::DropReplies {
                        self.network.set(other, to, flow(way));
                    }
                    if way != LinkFault::DropRequests {
                        self.network.set(to, other, flow(way));
                    }
                }
            }
            Fault::CutInstances { from, to, way } => self.network.set(from, to, flow(way)),
            Fault::CutClients { to, way } => cut(&self.doors[to], way),
            Fault::CutMembers { from, to, way } => etcd.set_link(from, to, flow(way))?,
            Fault::Isolate(member) => etcd.isolate(member)?,
            _ => {}
        }
        Ok(())
    }

    fn heal(&self, fault: Fault, etcd: &EtcdCluster, curators: &[CuratorProcess]) -> Result<()> {
        match fault {
            Fault::CutStore { instance, member, .. } => self.stores[instance][member].pass(),
            Fault::CutOff {
                who: Who::Number(at), ..
            } => self.stores[at].iter().try_for_each(TcpProxy::pass),
            Fault::CutInstance {
                to: Who::Number(to), ..
            } => {
                self.network.heal();
                curators[to].proxy()?.accept()
            }
            Fault::CutInstances { .. } => {
                self.network.heal();
                Ok(())
            }
            Fault::CutClients { to, .. } => self.doors[to].pass(),
            Fault::CutMembers { from, to, .. } => etcd.set_link(from, to, Flow::Pass),
            Fault::Isolate(_) => etcd.heal(),
            _ => Ok(()),
        }
    }
}

fn cut(proxy: &TcpProxy, way: LinkFault) {
    match way {
        LinkFault::Drop => proxy.blackhole(),
        LinkFault::DropRequests => proxy.set(Direction::ToServer, Flow::Hold),
        LinkFault::DropReplies => proxy.set(Direction::ToClient, Flow::Hold),
        LinkFault::Slow(by) => {
            for direction in [Direction::ToServer, Direction::ToClient] {
                proxy.set(direction, Flow::Delay(by));
            }
        }
        LinkFault::Reset => proxy.refuse(),
    }
}

/// What a link does that is cut so, in a direction that is.
fn flow(way: LinkFault) -> Flow {
    match way {
        LinkFault::Slow(by) => Flow::Delay(by),
        LinkFault::Drop | LinkFault::DropRequests | LinkFault::DropReplies | LinkFault::Reset => Flow::Hold,
    }
}

/// What a host that is slow still sends, in bits a second: some calls get through.
const SLOW: u32 = 128_000;
/// The number of the host that the callers are on.
pub(crate) const CALLERS: usize = HOSTS;

/// A network for each host. Several cuts may meet on one link: the worst of them counts.
pub(crate) struct Networks {
    hosts: Hosts,
    cuts: Vec<Fault>,
    now: State,
}

/// What becomes of what each sends to each other, and which ones send slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    links: [[Link; HOSTS + 1]; HOSTS + 1],
    slow: [bool; HOSTS + 1],
}

impl State {
    fn of(cuts: &[Fault]) -> Self {
        let mut state = Self::default();
        for fault in cuts {
            let (host, others, way) = match *fault {
                Fault::CutHost { host, other, way } => {
                    let others = (0..HOSTS).filter(|at| *at != host && other.is_none_or(|other| other == *at));
                    (host, others.collect(), way)
                }
                Fault::CutClients { to, way } => (to, vec![CALLERS], way),
                _ => continue,
            };
            for other in others {
                let mut worse = |from: usize, to: usize, link: Link| {
                    let now = &mut state.links[from][to];
                    *now = link.max(*now);
                };
                match way {
                    LinkFault::Drop => {
                        worse(host, other, Link::Lost);
                        worse(other, host, Link::Lost);
                    }
                    LinkFault::DropRequests => worse(other, host, Link::Lost),
                    LinkFault::DropReplies => worse(host, other, Link::Lost),
                    LinkFault::Reset => {
                        worse(host, other, Link::Refused);
                        worse(other, host, Link::Refused);
                    }
                    LinkFault::Slow(_) => state.slow[host] = true,
                }
            }
        }
        state
    }
}

impl Networks {
    pub(super) fn start() -> Result<Self> {
        Ok(Self {
            hosts: Hosts::start(u8::try_from(HOSTS + 1).unwrap_or(u8::MAX))?,
            cuts: Vec::new(),
            now: State::default(),
        })
    }

    pub(super) fn hosts(&self) -> &[Host] {
        self.hosts.all()
    }

    fn cut(&mut self, fault: Fault) -> Result<()> {
        self.cuts.push(fault);
        self.apply()
    }

    fn heal(&mut self, fault: Fault) -> Result<()> {
        if let Some(at) = self.cuts.iter().position(|cut| *cut == fault) {
            self.cuts.remove(at);
        }
        self.apply()
    }

    fn apply(&mut self) -> Result<()> {
        let wanted = State::of(&self.cuts);
        for from in 0..=HOSTS {
            for to in (0..=HOSTS).filter(|to| *to != from) {
                if wanted.links[from][to] != self.now.links[from][to] {
                    self.hosts.set(from, to, wanted.links[from][to])?;
                }
            }
            if wanted.slow[from] != self.now.slow[from] {
                self.hosts.narrow(from, wanted.slow[from].then_some(SLOW))?;
            }
        }
        self.now = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host(host: usize, other: Option<usize>, way: LinkFault) -> Fault {
        Fault::CutHost { host, other, way }
    }

    #[test]
    fn the_worst_cut_of_a_link_counts_and_each_ends_alone() {
        let lost = host(0, None, LinkFault::Drop);
        let refused = host(1, Some(0), LinkFault::Reset);
        let both = State::of(&[refused, lost]);
        assert_eq!(both, State::of(&[lost, refused]));
        assert_eq!(both.links[0], [Link::Open, Link::Refused, Link::Lost, Link::Open]);
        assert_eq!(both.links[2], [Link::Lost, Link::Open, Link::Open, Link::Open]);
        assert_eq!(State::of(&[]), State::default());
    }

    #[test]
    fn one_way_is_one_way() {
        let deaf = State::of(&[Fault::CutClients {
            to: 2,
            way: LinkFault::DropRequests,
        }]);
        assert_eq!(
            (deaf.links[CALLERS][2], deaf.links[2][CALLERS]),
            (Link::Lost, Link::Open)
        );
        let mute = State::of(&[host(2, Some(1), LinkFault::DropReplies)]);
        assert_eq!((mute.links[2][1], mute.links[1][2]), (Link::Lost, Link::Open));
        let slow = State::of(&[host(2, None, LinkFault::Slow(Duration::from_millis(9)))]);
        assert_eq!(
            (slow.slow, slow.links),
            ([false, false, true, false], State::default().links)
        );
    }

    #[test]
    fn all_that_lies_between_becomes_a_matter_of_hosts() {
        let way = LinkFault::Drop;
        let store = |member| Fault::CutStore {
            instance: 1,
            member,
            way,
        };
        assert_eq!(store(0).between_hosts(), host(1, Some(0), way));
        assert_eq!(store(1).between_hosts(), host(1, Some(2), way));
        let members = Fault::CutMembers { from: 0, to: 2, way };
        assert_eq!(members.between_hosts(), host(0, Some(2), LinkFault::DropReplies));
        assert_eq!(Fault::Isolate(1).between_hosts(), host(1, None, way));
        assert_eq!(Fault::KillMember(1).between_hosts(), Fault::KillMember(1));
    }
}
