//! Candidates on Go's election library, one on each host.
use std::path::Path;
use std::time::{Duration, Instant};

use curator_harness::error::Result;
use curator_harness::process::{Capture, Process, ProcessSpec, Recorded};
use curator_harness::{At, Line, Mark, TempDir, signals, step, wait_until};

use super::super::candidates::Candidate;
use super::case::Case;
use crate::commands::chaos::cast::ChaosCluster;
use crate::commands::chaos::schedule::HOSTS;

/// Where the keys are.
const PREFIX: &str = "go/leader/";
/// Beyond the TTL: what a change of leader takes at most.
const SOON: Duration = Duration::from_secs(30);

pub(super) struct GoQueue {
    candidates: Vec<One>,
    ttl: Duration,
}

#[allow(clippy::large_enum_variant, reason = "there are three of them")]
enum One {
    /// On a host, with the members of etcd that it knows.
    Host {
        spec: ProcessSpec,
        scratch: TempDir,
        running: Recorded,
    },
    /// On loopback, with a way to etcd that can be cut.
    Loopback(Candidate),
}

impl One {
    fn leads(&self) -> bool {
        match self {
            Self::Host { running, .. } => {
                let said = running
                    .lines
                    .last(|line| line.text == "lost" || line.text.starts_with("leading at"));
                running.process.is_running() && said.is_some_and(|line| line.text != "lost")
            }
            Self::Loopback(candidate) => candidate.leads(),
        }
    }

    fn led_after(&self, at: Instant) -> Option<Instant> {
        match self {
            Self::Host { running, .. } => {
                let lines = running.lines.since(Mark::START);
                let leading = |line: &&Line| line.at >= at && line.text.starts_with("leading at");
                lines.iter().find(leading).map(|line| line.at)
            }
            Self::Loopback(candidate) => candidate.led_after(at),
        }
    }

    fn process(&self) -> &Process {
        match self {
            Self::Host { running, .. } => &running.process,
            Self::Loopback(candidate) => candidate.process(),
        }
    }

    fn again(&mut self) -> Result<()> {
        match self {
            Self::Host { spec, scratch, running } => {
                running.process.kill()?;
                *running = Recorded::start(spec, scratch)?;
                Ok(())
            }
            Self::Loopback(candidate) => {
                candidate.heal()?;
                candidate.again()
            }
        }
    }
}

impl GoQueue {
    pub(super) fn start(binary: &Path, cluster: &ChaosCluster, scratch: &TempDir, ttl: Duration) -> Result<Self> {
        let start = |own: usize| {
            let Some(host) = cluster.links.host(own) else {
                return Candidate::go(binary, scratch, own, &cluster.etcd, ttl).map(One::Loopback);
            };
            // Its own member first.
            let members = (0..HOSTS).map(|next| cluster.etcd.client_url((own + next) % HOSTS));
            let members = members.collect::<Vec<_>>().join(",");
            let name = format!("go-{own}");
            let spec = ProcessSpec::new(&name, binary)
                .args([&members, "go/leader", &name, &ttl.as_secs().to_string()])
                .on(Some(host))
                .capture(Capture::Stdout);
            Ok(One::Host {
                running: Recorded::start(&spec, scratch)?,
                spec,
                scratch: scratch.clone(),
            })
        };
        let candidates = (0..HOSTS).map(start).collect::<Result<_>>()?;
        Ok(Self { candidates, ttl })
    }

    /// Starts all candidates once more.
    pub(super) fn start_anew(&mut self) -> Result<()> {
        self.candidates.iter_mut().try_for_each(One::again)
    }

    /// The one that leads, once all are queued.
    pub(super) fn leader(&self, cluster: &ChaosCluster) -> Result<usize> {
        wait_until("one of Go's to lead and all to be queued", self.ttl * 3 + SOON, || {
            let queued = cluster.etcd.get_prefix(At::Any, PREFIX).ok()?;
            let leader = self.candidates.iter().position(One::leads)?;
            (queued.len() == HOSTS).then_some(leader)
        })
    }

    /// Ends the leader as the case says; how long it took until another led, or how long that was waited for.
    pub(super) fn end_leader(&mut self, leader: usize, case: Case, cluster: &mut ChaosCluster) -> Result<Duration> {
        let within = self.ttl * 3 + SOON;
        case.prepare(cluster, leader)?;
        let mut undo = Vec::new();
        let at = Instant::now();
        match case {
            Case::Killed => self.candidates[leader].process().kill().map(drop)?,
            Case::Hung => self.candidates[leader].process().pause()?,
            Case::Host | Case::HostOfBoth => {
                for fault in Case::lost_host(leader) {
                    undo.push(cluster.begin(fault)?);
                }
            }
            Case::CutOffFromEtcd => {
                if let One::Loopback(candidate) = &self.candidates[leader] {
                    candidate.cut();
                }
            }
            Case::SlowDisk => {}
        }
        let next = wait_until("another of Go's to lead", within, || {
            let others = self.candidates.iter().enumerate().filter(|(other, _)| *other != leader);
            others.filter_map(|(_, candidate)| candidate.led_after(at)).min()
        });
        for fault in undo {
            cluster.end(fault)?;
        }
        let Ok(next) = next else {
            signals::check()?;
            // A client that waits for a lost member does not find out by itself.
            step::say(format_args!(
                "none of Go's led within {within:?}: that time counts, and all are started anew"
            ));
            self.start_anew()?;
            return Ok(within);
        };
        self.candidates[leader].again()?;
        Ok(next - at)
    }
}
