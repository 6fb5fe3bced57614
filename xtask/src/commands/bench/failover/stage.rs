//! Ours on their hosts, of which one after the other is lost.
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use curator_harness::error::Result;
use curator_harness::{At, EtcdBinaries, Mark, TempDir, step, wait_until};

use super::super::cpu;
use super::calls::Calls;
use super::case::Case;
use super::figures::{Measured, What};
use super::slow_disk::{DELAY, slow_disk};
use crate::commands::chaos::cast::{ChaosCluster, Programs, Setting};
use crate::commands::chaos::schedule::HOSTS;

/// Beyond the TTL: what a change of leader takes at most.
const SOON: Duration = Duration::from_secs(30);
/// How long idle ones are looked at, and how long the disk is slow.
const IDLE: Duration = Duration::from_secs(20);
const SLOW: Duration = Duration::from_secs(60);

pub(super) struct Stage {
    pub(super) cluster: ChaosCluster,
    calls: Option<Calls>,
    ttl: Duration,
}

impl Stage {
    pub(super) fn start(
        binaries: &EtcdBinaries,
        programs: &Programs,
        scratch: &TempDir,
        hosts: bool,
        ttl: Duration,
        arguments: Vec<String>,
    ) -> Result<Self> {
        let setting = Setting { hosts, ttl, arguments };
        Ok(Self {
            cluster: ChaosCluster::start_as(binaries, programs, scratch, &setting)?,
            calls: None,
            ttl,
        })
    }

    /// Calls all instances from here on.
    pub(super) fn load(&mut self, programs: &Programs, scratch: &TempDir) -> Result<()> {
        self.calls = Some(Calls::start(programs, &self.cluster, scratch)?);
        Ok(())
    }

    /// One leads, all follow, and etcd has all its members.
    fn settle(&self) -> Result<usize> {
        let within = self.ttl * 3 + SOON;
        self.cluster.etcd.wait_healthy(within)?;
        self.cluster.agreed(within)
    }

    /// Ends the leader as the case says, and waits for the next.
    pub(super) fn end_leader(&mut self, case: Case, measured: &mut Measured<'_>) -> Result<()> {
        let leader = self.settle()?;
        case.prepare(&self.cluster, leader)?;
        if let Some(calls) = &self.calls {
            calls.forget();
        }
        let mut undo = Vec::new();
        let at = Instant::now();
        for fault in case.faults(leader) {
            undo.push(self.cluster.begin(fault)?);
        }
        let next = wait_until("another one to lead", self.ttl * 3 + SOON, || {
            let others = (0..HOSTS).filter(|other| *other != leader);
            others.filter_map(|other| self.led_after(other, at)).min()
        })?;
        measured.add(What::Leads(case), (next - at).as_secs_f64());
        if let Some(calls) = &self.calls {
            let outage = calls.outage(leader, at, next)?;
            measured.add(What::Answered(case), outage.lasted.as_secs_f64());
            measured.add(What::Failed(case), outage.failed as f64);
            measured.add(What::Arrived(case), outage.arrived as f64);
            measured.add(What::FailedBefore(case), outage.failed_before as f64);
        }
        for fault in undo {
            self.cluster.end(fault)?;
        }
        Ok(())
    }

    /// How many terms there were. One that was suspended, and is resumed, is the same.
    fn terms(&self) -> usize {
        let terms: BTreeSet<_> = self.cluster.terms().into_iter().map(|(_, term, ..)| term).collect();
        terms.len()
    }

    fn led_after(&self, instance: usize, at: Instant) -> Option<Instant> {
        let roles = self.cluster.curators[instance].roles_since(Mark::START);
        let leading = |change: &&curator_harness::RoleChange| change.at >= at && change.role.is_leader();
        roles.iter().find(leading).map(|change| change.at)
    }

    /// What it costs that nothing happens.
    pub(super) fn idle(&self, measured: &mut Measured<'_>) -> Result<()> {
        self.settle()?;
        let members = (0..HOSTS)
            .map(|member| self.cluster.etcd.pid(member))
            .collect::<Result<Vec<_>>>()?;
        let instances: Vec<_> = self.cluster.curators.iter().map(|curator| curator.pid()).collect();
        let look = |pids: &[u32]| pids.iter().map(|pid| cpu::of_process(*pid)).collect::<Result<Vec<_>>>();
        let revision = self.cluster.etcd.revision(At::Any)?;
        let (began, before) = (Instant::now(), [look(&members)?, look(&instances)?]);
        thread::sleep(IDLE);
        let after = [look(&members)?, look(&instances)?];
        let seconds = began.elapsed().as_secs_f64();
        let written = self.cluster.etcd.revision(At::Any)? - revision;
        if written > 0 {
            let newest = [
                "get",
                "",
                "--prefix",
                "--keys-only",
                "--sort-by=MODIFY",
                "--order=DESCEND",
            ];
            let keys = self.cluster.etcd.etcdctl(At::Any, &newest, SOON)?;
            let first = keys.lines().find(|line| !line.is_empty()).unwrap_or_default();
            step::say(format_args!(
                "{written} revisions while idle; the newest key that is there: {first}"
            ));
        }
        measured.add(What::Revisions, written as f64 * 60.0 / seconds);
        for ((what, before), after) in [What::EtcdCpu, What::OwnCpu].into_iter().zip(before).zip(after) {
            for (before, after) in before.into_iter().zip(after) {
                measured.add(what, after.saturating_sub(before).as_secs_f64() / seconds);
            }
        }
        Ok(())
    }

    /// Counts the changes of leader while each fsync of etcd takes long, under load.
    pub(super) fn slow_disk(&self, scratch: &TempDir, measured: &mut Measured<'_>) -> Result<()> {
        self.settle()?;
        let members = (0..HOSTS)
            .map(|member| self.cluster.etcd.pid(member))
            .collect::<Result<Vec<_>>>()?;
        let terms = self.terms();
        let began = Instant::now();
        let Some(_slow) = slow_disk(&members, scratch)? else {
            step::say("SKIPPED: changes of leader with a slow disk, for there is no strace here");
            return Ok(());
        };
        step::say(format_args!("each fsync of etcd takes {DELAY:?} longer, for {SLOW:?}"));
        thread::sleep(SLOW);
        let changes = self.terms().saturating_sub(terms);
        for (instance, curator) in self.cluster.curators.iter().enumerate() {
            let roles = curator.roles_since(Mark::START);
            for change in roles.iter().filter(|change| change.at >= began) {
                let why = change.reason.as_deref().unwrap_or_default();
                step::say(format_args!(
                    "after {:.1} s instance {instance}: {:?} {why}",
                    (change.at - began).as_secs_f64(),
                    change.role
                ));
            }
        }
        measured.add(What::FalseFailovers, changes as f64 * 60.0 / SLOW.as_secs_f64());
        Ok(())
    }
}
