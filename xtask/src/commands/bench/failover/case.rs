//! What is lost, and how it is made so.
use std::time::Duration;

use curator_harness::error::Result;
use curator_harness::wait_until;

use crate::commands::chaos::cast::ChaosCluster;
use crate::commands::chaos::schedule::{Fault, HOSTS, LinkFault, Who};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    /// SIGKILL of the leader; its host closes its connections.
    Killed,
    /// SIGSTOP of the leader.
    Hung,
    /// No packet gets to or from the leader's host, on which a member of etcd is that does not lead etcd.
    Host,
    /// The same, and that member leads etcd.
    HostOfBoth,
    /// The leader reaches no member of etcd, and nothing else is lost.
    CutOffFromEtcd,
    /// Nothing is lost; each fsync of etcd takes long.
    SlowDisk,
}

/// How long etcd's leader may take to be moved.
const SETTLED: Duration = Duration::from_secs(60);

impl Case {
    pub(super) const ALL: [Self; 6] = [
        Self::Killed,
        Self::Hung,
        Self::Host,
        Self::HostOfBoth,
        Self::CutOffFromEtcd,
        Self::SlowDisk,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Killed => "process killed",
            Self::Hung => "process hung",
            Self::Host => "host lost",
            Self::HostOfBoth => "host lost, with etcd's leader",
            Self::CutOffFromEtcd => "cut off from etcd only",
            Self::SlowDisk => "slow disk of etcd",
        }
    }

    /// By the word of the command line.
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "killed" => Self::Killed,
            "hung" => Self::Hung,
            "host" => Self::Host,
            "host-of-both" => Self::HostOfBoth,
            "cut-off" => Self::CutOffFromEtcd,
            "slow-disk" => Self::SlowDisk,
            _ => return None,
        })
    }

    /// An instance shares its host with a member of etcd, so that it is cut off from etcd alone only on loopback.
    pub(super) const fn on_hosts(self) -> bool {
        !matches!(self, Self::CutOffFromEtcd)
    }

    /// Moves etcd's leader to where it belongs, if the leader is on that host.
    pub(super) fn prepare(self, cluster: &ChaosCluster, leader: usize) -> Result<()> {
        let to = match self {
            Self::HostOfBoth => leader,
            // In all other cases etcd's leader stays.
            _ => (leader + 1) % HOSTS,
        };
        // A member that was cut off may not have caught up yet: then etcd does not answer.
        wait_until("etcd's leader to be on its host", SETTLED, || {
            cluster.etcd.move_leader(to).ok()
        })
    }

    /// What happens to ours.
    pub(super) fn faults(self, leader: usize) -> Vec<Fault> {
        let who = Who::Number(leader);
        match self {
            Self::Killed => vec![Fault::KillInstance(who)],
            Self::Hung => vec![Fault::PauseInstance(who)],
            Self::CutOffFromEtcd => vec![Fault::CutOff {
                who,
                way: LinkFault::Drop,
            }],
            Self::Host | Self::HostOfBoth => Self::lost_host(leader).to_vec(),
            Self::SlowDisk => Vec::new(),
        }
    }

    /// Packets are dropped both ways between a host and all others.
    pub(super) const fn lost_host(host: usize) -> [Fault; 2] {
        let way = LinkFault::Drop;
        let others = Fault::CutHost { host, other: None, way };
        [others, Fault::CutClients { to: host, way }]
    }
}
