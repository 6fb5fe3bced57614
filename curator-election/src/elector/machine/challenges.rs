//! The elector's decisions about challenges: it passes events to the pure parts, and turns what they want into
//! commands.

use super::{Command, Machine, PLACE_INTERVAL, State};
use crate::backend::{RecordGuard, Standing};
use crate::challenge::{Challenger, Confirmations, Found, Outcome, Step};
use crate::clock::Instant;
use crate::status::Reason;
use crate::store::{Revision, StoreError};
use crate::term::WentBack;
use crate::value::LeaderValue;

impl<V: LeaderValue> Machine<V> {
    /// Whoever is stuck, or whose round ends, challenges nobody.
    pub(super) fn challenger(&mut self) -> Option<&mut Challenger> {
        match &mut self.state {
            State::Running(running) => running.challenger.as_mut(),
            _ => None,
        }
    }

    pub(super) fn pass_time_of_challenges(&mut self, now: Instant) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        if let (Some(confirmations), Some(elected)) = (&mut running.confirmations, &running.elected) {
            let is_over = confirmations.deadline().is_some_and(|deadline| now >= deadline);
            if is_over && !std::mem::replace(&mut running.suspended, is_over) {
                self.commands.push(Command::Suspended);
            }
            while let Some(id) = confirmations.read_if_due(now, self.newest) {
                self.commands.push(Command::ReadOwn {
                    id,
                    key: elected.key.clone(),
                    timeout: confirmations.call_timeout(),
                });
            }
        }
        let Some(challenger) = &mut running.challenger else {
            return;
        };
        if !challenger.is_placed() {
            running.relist_at = running.relist_at.min(now + PLACE_INTERVAL);
        }
        for step in challenger.due(now) {
            self.step(now, step);
        }
    }

    pub(super) fn suspected(&mut self, now: Instant, leader: Revision) {
        if let Some(challenger) = self.challenger() {
            challenger.suspect(now, leader);
        }
    }

    pub(super) fn confirmed(&mut self, now: Instant, id: u64, result: Result<Standing, StoreError>) {
        let Some(confirmations) = self.confirmations() else {
            return;
        };
        let outcome = match result {
            Ok(standing) => confirmations.read(id, now, &standing),
            Err(_) => {
                confirmations.failed(id, now);
                Outcome::Nothing
            }
        };
        self.apply(now, outcome);
    }

    pub(super) fn refuted(&mut self, now: Instant, id: u64, result: Result<Option<Revision>, StoreError>) {
        let Some(confirmations) = self.confirmations() else {
            return;
        };
        let outcome = match result {
            Ok(put) => confirmations.refuted(id, now, put.is_some()),
            Err(_) => {
                confirmations.failed(id, now);
                Outcome::Nothing
            }
        };
        self.apply(now, outcome);
    }

    pub(super) fn read_oldest(&mut self, now: Instant, id: u64, result: Result<Standing, StoreError>) {
        let Some(challenger) = self.challenger() else {
            return;
        };
        let (found, step) = challenger.read(id, now, result.ok().as_ref());
        self.report(found);
        if let Some(step) = step {
            self.step(now, step);
        }
    }

    pub(super) fn report(&mut self, found: Option<Found>) {
        let State::Running(running) = &self.state else {
            return;
        };
        let key = running.challenger.as_ref().and_then(Challenger::target_key);
        if let (Some(found), Some(key)) = (found, key) {
            self.commands.push(Command::Report { found, key });
        }
    }

    fn confirmations(&mut self) -> Option<&mut Confirmations> {
        match &mut self.state {
            State::Running(running) => running.confirmations.as_mut(),
            _ => None,
        }
    }

    fn apply(&mut self, now: Instant, outcome: Outcome) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        let (Some(confirmations), Some(elected)) = (&mut running.confirmations, &running.elected) else {
            return;
        };
        match outcome {
            Outcome::Nothing => {}
            Outcome::Confirmed => {
                running.suspended = false;
                let until = confirmations.deadline();
                match until {
                    Some(until) if self.is_leader() => self.commands.push(Command::Confirm { until }),
                    until => self.lead(now, until),
                }
            }
            Outcome::Refute {
                id,
                cause,
                seen,
                record,
            } => {
                let guard = RecordGuard {
                    key: elected.key.clone(),
                    created: elected.revision,
                    seen,
                    challenger: None,
                };
                self.commands.push(Command::Refute {
                    id,
                    cause,
                    guard,
                    lease: running.lease,
                    record,
                    timeout: confirmations.call_timeout(),
                });
            }
            Outcome::Lost => self.end_round(now, Reason::LockLost),
            Outcome::WentBack { seen, found } => {
                let went_back = WentBack { seen, found };
                self.newest = found;
                self.commands.push(Command::WentBack(went_back));
                self.end_round(now, Reason::WentBack(went_back));
            }
        }
    }

    fn step(&mut self, now: Instant, step: Step) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        let command = match step {
            Step::FindPlace => {
                running.relist_at = now;
                return;
            }
            Step::AskTtl { id, lease } => Command::AskTtl { id, lease },
            Step::Read { id, key } => Command::ReadOldest { id, key },
            Step::Challenge {
                id,
                target,
                seen,
                record,
                own,
            } => Command::Challenge {
                id,
                guard: RecordGuard {
                    key: target.key,
                    created: target.created,
                    seen,
                    challenger: Some((own.key, own.created)),
                },
                lease: target.lease,
                record,
            },
            Step::Depose { id, target, seen, own } => Command::Depose {
                id,
                guard: RecordGuard {
                    key: target.key,
                    created: target.created,
                    seen,
                    challenger: Some((own.key, own.created)),
                },
            },
        };
        self.commands.push(command);
    }
}
