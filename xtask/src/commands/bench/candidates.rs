//! Candidates for leadership of either kind, each with its own way to etcd that can be cut.
use std::path::Path;
use std::time::{Duration, Instant};

use curator_harness::error::Result;
use curator_harness::process::{Capture, Process, ProcessSpec, Recorded};
use curator_harness::proxy::address_of;
use curator_harness::{CuratorOptions, CuratorProcess, EtcdCluster, Mark, TcpProxy, TempDir};

/// Whose candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ours,
    Go,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go",
        }
    }

    /// Where their keys are.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Ours => "namespaced:curator//leader/",
            Self::Go => "go/leader/",
        }
    }
}

/// A candidate beside a member of etcd.
pub(super) struct Candidate {
    way: TcpProxy,
    running: Running,
}

#[allow(clippy::large_enum_variant, reason = "there are six of them")]
enum Running {
    Ours(CuratorProcess),
    Go {
        spec: ProcessSpec,
        scratch: TempDir,
        recorded: Recorded,
    },
}

impl Candidate {
    pub(super) fn ours(
        program: &Path,
        scratch: &TempDir,
        member: usize,
        etcd: &EtcdCluster,
        ttl: Duration,
    ) -> Result<Self> {
        let way = TcpProxy::start(address_of(&etcd.client_url(member))?)?;
        let number = u32::try_from(member + 1).unwrap_or(1);
        let options = CuratorOptions::new(number, vec![way.url()]).leader_ttl(ttl);
        let running = Running::Ours(CuratorProcess::start(program, scratch, options)?);
        Ok(Self { way, running })
    }

    pub(super) fn go(
        binary: &Path,
        scratch: &TempDir,
        member: usize,
        etcd: &EtcdCluster,
        ttl: Duration,
    ) -> Result<Self> {
        let way = TcpProxy::start(address_of(&etcd.client_url(member))?)?;
        let spec = ProcessSpec::new(format!("go-{member}"), binary)
            .args([
                &way.url(),
                "go/leader",
                &format!("go-{member}"),
                &ttl.as_secs().to_string(),
            ])
            .capture(Capture::Stdout);
        let running = Running::Go {
            recorded: Recorded::start(&spec, scratch)?,
            spec,
            scratch: scratch.clone(),
        };
        Ok(Self { way, running })
    }

    pub(super) fn process(&self) -> &Process {
        match &self.running {
            Running::Ours(curator) => curator.process(),
            Running::Go { recorded, .. } => &recorded.process,
        }
    }

    /// Where it is called, if it can be.
    pub(super) fn address(&self) -> Option<String> {
        match &self.running {
            Running::Ours(curator) => Some(curator.address().to_string()),
            Running::Go { .. } => None,
        }
    }

    /// When it said for the first time who leads.
    pub(super) fn knows_leader(&self) -> Option<Instant> {
        match &self.running {
            Running::Ours(curator) => curator
                .roles_since(Mark::START)
                .into_iter()
                .find(|change| change.role.lock_revision().is_some())
                .map(|change| change.at),
            Running::Go { .. } => self.said(Instant::now() - Duration::from_secs(60), |line| {
                line.starts_with("leading at") || line.starts_with("observed")
            }),
        }
    }

    pub(super) fn leads(&self) -> bool {
        match &self.running {
            Running::Ours(curator) => curator.role().is_some_and(|role| role.is_leader()),
            Running::Go { recorded, .. } => {
                let said = recorded
                    .lines
                    .last(|line| line.text == "lost" || line.text.starts_with("leading at"));
                recorded.process.is_running() && said.is_some_and(|line| line.text != "lost")
            }
        }
    }

    /// When it began to lead, if that was after `at`.
    pub(super) fn led_after(&self, at: Instant) -> Option<Instant> {
        match &self.running {
            Running::Ours(curator) => curator
                .roles_since(Mark::START)
                .into_iter()
                .find(|change| change.at >= at && change.role.is_leader())
                .map(|change| change.at),
            Running::Go { .. } => self.said(at, |line| line.starts_with("leading at")),
        }
    }

    /// When it stopped to lead, if that was after `at`.
    pub(super) fn stopped_after(&self, at: Instant) -> Option<Instant> {
        match &self.running {
            Running::Ours(curator) => curator
                .roles_since(Mark::START)
                .into_iter()
                .find(|change| change.at >= at && !change.role.is_leader())
                .map(|change| change.at),
            Running::Go { .. } => self.said(at, |line| line == "lost"),
        }
    }

    fn said(&self, after: Instant, wanted: impl Fn(&str) -> bool) -> Option<Instant> {
        let Running::Go { recorded, .. } = &self.running else {
            return None;
        };
        let lines = recorded.lines.since(Mark::START);
        lines
            .into_iter()
            .find(|line| line.at >= after && wanted(&line.text))
            .map(|line| line.at)
    }

    /// Nothing passes between it and etcd any more.
    pub(super) fn cut(&self) {
        self.way.blackhole();
    }

    pub(super) fn heal(&self) -> Result<()> {
        self.way.pass()
    }

    /// Starts it again.
    pub(super) fn again(&mut self) -> Result<()> {
        match &mut self.running {
            Running::Ours(curator) => curator.restart(),
            Running::Go {
                spec,
                scratch,
                recorded,
            } => {
                recorded.process.kill()?;
                *recorded = Recorded::start(spec, scratch)?;
                Ok(())
            }
        }
    }
}
