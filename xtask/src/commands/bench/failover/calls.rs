//! Calls of all instances all the time, and what became of those that came when nobody led.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use curator_harness::error::Result;
use curator_harness::process::{Capture, Process, ProcessSpec};
use curator_harness::{TempDir, step, wait_until};

use crate::commands::chaos::calls::Told;
use crate::commands::chaos::cast::{ChaosCluster, Programs};
use crate::commands::chaos::clock;
use crate::commands::chaos::links::CALLERS;

/// How long the load may take until it calls, and a call until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Calls {
    load: Process,
    told: Arc<Mutex<Vec<Told>>>,
}

/// What became of the calls of one outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    /// Until one was answered.
    pub(super) lasted: Duration,
    /// Those that began in that time, and how many of them failed.
    pub(super) arrived: usize,
    pub(super) failed: usize,
    /// Those that had begun before, and failed: the leader may have served them.
    pub(super) failed_before: usize,
}

impl Calls {
    pub(super) fn start(programs: &Programs, cluster: &ChaosCluster, scratch: &TempDir) -> Result<Self> {
        let doors = cluster.curators.iter().enumerate();
        let addresses: Vec<_> = doors
            .map(|(number, curator)| cluster.links.door(curator, number).to_string())
            .collect();
        let spec = ProcessSpec::new("load", &programs.load)
            .args(cluster.owner.arguments())
            .args(&addresses)
            .on(cluster.links.host(CALLERS))
            .capture(Capture::Stdout);
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let hears = Arc::clone(&told);
        let load = Process::start_with(&spec, scratch, move |line| {
            if let Ok(call) = serde_json::from_str::<Told>(&line.text)
                && call.is_management()
            {
                hears.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            }
        })?;
        let calls = Self { load, told };
        calls.wait("be answered", |all| all.iter().any(Told::is_answered).then_some(()))?;
        Ok(calls)
    }

    /// Forgets what was told so far.
    pub(super) fn forget(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What became of those through all instances but one, from when it was lost, once another leads.
    pub(super) fn outage(&self, lost: usize, at: Instant, leads: Instant) -> Result<Outage> {
        let [at, leads] = [at, leads].map(nanoseconds);
        let through = |call: &&Told| call.via != lost;
        let first = self.wait("be answered again", |all| {
            let answered = all.iter().filter(through).filter(|call| call.is_answered());
            answered.map(|call| call.ended).filter(|ended| *ended > leads).min()
        })?;
        // All that began until then have ended once each instance was called anew.
        self.wait("end its calls of the outage", |all| {
            let later = |via: usize| all.iter().any(|call| call.via == via && call.began > first);
            (0..crate::commands::chaos::schedule::HOSTS)
                .filter(|via| *via != lost)
                .all(later)
                .then_some(())
        })?;
        let all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let through: Vec<_> = all.iter().filter(through).collect();
        let arrived = || through.iter().filter(|call| (at..first).contains(&call.began));
        let before = through.iter().filter(|call| call.began < at && call.ended > at);
        for call in arrived().filter(|call| !call.is_answered()) {
            let after = Duration::from_nanos(call.began.saturating_sub(at));
            step::say(format_args!("failed, from {after:?} on: {}", call.account()));
        }
        Ok(Outage {
            lasted: Duration::from_nanos(first.saturating_sub(at)),
            arrived: arrived().count(),
            failed: arrived().filter(|call| !call.is_answered()).count(),
            failed_before: before.filter(|call| !call.is_answered()).count(),
        })
    }

    fn wait<T>(&self, what: &str, look: impl Fn(&[Told]) -> Option<T>) -> Result<T> {
        wait_until(format!("the load to {what}"), PATIENCE, || {
            if let Some(found) = look(&self.told.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Some(Ok(found));
            }
            self.load.status().map(|status| Err(self.load.ended_early(status)))
        })?
    }
}

/// A moment by the clock that all processes of this host share.
fn nanoseconds(at: Instant) -> u64 {
    let ago = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
    clock().saturating_sub(ago)
}
