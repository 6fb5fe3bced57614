//! A formal model of the election with fencing and forwarding, checked exhaustively for three candidates within small
//! bounds.
//!
//! Names are those of the code. A candidate puts a lock key under a lease, which gets the next *create revision*; it
//! leads when a transaction shows that no older key is left and that its own is still there. A *term* is that create
//! revision; it is *valid* until its deadline, which may pass at any moment, since a process may be paused for as long
//! as one likes between any two of its steps. What a leader writes is a transaction under the *guard* that its lock key
//! is there, on the condition that the register is as its *view* has it; what it reads is its view, behind a fence, a
//! transaction of the guard alone. Clients call any instance. A follower forwards a call once, with the term that it
//! expects; only the leader of just that term takes it, and whoever else gets it refuses before anything runs. Requests
//! and answers are on their way for as long as one likes, and answers may be lost.
//!
//! Each safeguard is taken out in turn, and the checker must find what goes wrong then.

use stateright::{Model, Property};

use crate::checking::{all_hold, is_broken};

#[path = "shared/checking.rs"]
mod checking;

const CANDIDATES: usize = 3;

/// A create revision: they begin at one.
type Term = u8;

/// A safeguard that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    Guard,
    Barrier,
    RecheckOfOwnKey,
    /// Leaves out the difference between a call that was refused before it ran and one whose answer was lost.
    ProofThatNothingRan,
    HopLimit,
    /// The view is taken as it is, without the condition on what was decided on.
    Conditions,
}

/// The bounds, and what may happen.
#[derive(Clone, Debug)]
struct Election {
    /// How many lock keys are ever put.
    rounds: u8,
    calls: Vec<Kind>,
    /// Whether leases may also end before the deadlines of their terms: revoked by somebody, or because a clock is
    /// wrong.
    early_ends: bool,
    without: Without,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Read,
    Write,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    store: Store,
    candidates: [Candidate; CANDIDATES],
    calls: Vec<Call>,
    /// The newest version that an ended call has seen or written.
    newest: u8,
    broken: Option<Broken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    /// Whose lock key each create revision is, while it is there.
    locks: Vec<Option<u8>>,
    /// How often the register was written.
    version: u8,
    /// The term of the last accepted write.
    writer: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Candidate {
    /// Between two rounds.
    Out,
    /// Its key is put; whom it follows, as it was last told.
    Queued { own: Term, leader: Option<(u8, Term)> },
    /// It has won. The view is read first.
    Leads { term: Term, valid: bool, view: Option<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Call {
    kind: Kind,
    /// What had been seen or written by ended calls when it began.
    floor: u8,
    runs: u8,
    hops: u8,
    at: At,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    NotBegun,
    /// At an instance that a client called: held, until it knows who leads.
    Instance(u8),
    /// Forwarded, on its way.
    Forwarded {
        from: u8,
        to: u8,
        expected: Term,
    },
    /// At a leader, which has not asked the store yet.
    Serving {
        leader: u8,
        term: Term,
        from: u8,
    },
    /// Its transaction is on its way to the store.
    Sent {
        leader: u8,
        term: Term,
        from: u8,
        view: u8,
    },
    /// The store's answer is on its way.
    Answered {
        leader: u8,
        term: Term,
        from: u8,
        answer: Answer,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    FenceHolds,
    Wrote(u8),
    Conflict(u8),
    FencedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    Fencing,
    Linearizability,
    OnTopOfWhatIsNotSo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Campaign(u8),
    /// The key is put, and nobody is told.
    CampaignAnswerLost(u8),
    LookForVictory(u8),
    Observe(u8),
    DeadlinePasses(u8),
    EndRound {
        candidate: u8,
        revoke: bool,
    },
    LeaseEnds(Term),
    ReadView(u8),
    Begin {
        call: usize,
        instance: u8,
    },
    Dispatch(usize),
    Receive(usize),
    Send(usize),
    Execute(usize),
    Deliver(usize),
    LoseAnswer(usize),
}

impl Store {
    fn holds(&self, term: Term) -> bool {
        self.locks[usize::from(term) - 1].is_some()
    }

    fn oldest(&self) -> Option<(u8, Term)> {
        (1..).zip(&self.locks).find_map(|(term, owner)| Some(((*owner)?, term)))
    }

    fn put_lock(&mut self, owner: u8) -> Term {
        self.locks.push(Some(owner));
        u8::try_from(self.locks.len()).expect("few")
    }

    fn delete_lock(&mut self, term: Term) {
        self.locks[usize::from(term) - 1] = None;
    }
}

impl State {
    fn leads(&self, leader: u8, expected: Term) -> bool {
        matches!(self.candidates[usize::from(leader)], Candidate::Leads { term, valid: true, .. } if term == expected)
    }

    fn view_mut(&mut self, leader: u8) -> Option<&mut u8> {
        match &mut self.candidates[usize::from(leader)] {
            Candidate::Leads { view, .. } => view.as_mut(),
            _ => None,
        }
    }

    /// A call is answered to its caller with this version.
    fn answer(&mut self, call: usize, version: u8) {
        let Call { kind, floor, .. } = self.calls[call];
        let least = match kind {
            Kind::Read => floor,
            Kind::Write => floor + 1,
        };
        if version < least {
            self.broken = Some(Broken::Linearizability);
        }
        self.newest = self.newest.max(version);
        self.calls[call].at = At::Ended;
    }
}

impl Election {
    fn new(rounds: u8, calls: &[Kind], early_ends: bool) -> Self {
        Self {
            rounds,
            calls: calls.into(),
            early_ends,
            without: Without::Nothing,
        }
    }

    fn without(self, without: Without) -> Self {
        Self { without, ..self }
    }

    fn lacks(&self, safeguard: Without) -> bool {
        self.without == safeguard
    }

    /// The transaction of a call, as the store carries it out.
    fn execute(&self, state: &mut State, call: usize, term: Term, view: u8) -> Answer {
        if !state.store.holds(term) && !self.lacks(Without::Guard) {
            return Answer::FencedOut;
        }
        match state.calls[call].kind {
            Kind::Read => Answer::FenceHolds,
            Kind::Write => {
                if state.store.version != view && !self.lacks(Without::Conditions) {
                    return Answer::Conflict(state.store.version);
                }
                if state.store.version != view {
                    state.broken = Some(Broken::OnTopOfWhatIsNotSo);
                }
                if term < state.store.writer {
                    state.broken = Some(Broken::Fencing);
                }
                state.store.writer = term;
                state.store.version += 1;
                state.calls[call].runs += 1;
                Answer::Wrote(state.store.version)
            }
        }
    }
}

impl Model for Election {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let call = |kind: &Kind| Call {
            kind: *kind,
            floor: 0,
            runs: 0,
            hops: 0,
            at: At::NotBegun,
        };
        vec![State {
            store: Store {
                locks: Vec::new(),
                version: 0,
                writer: 0,
            },
            candidates: [Candidate::Out; CANDIDATES],
            calls: self.calls.iter().map(call).collect(),
            newest: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let rounds_left = state.store.locks.len() < usize::from(self.rounds);
        for (number, candidate) in (0..).zip(&state.candidates) {
            match *candidate {
                Candidate::Out if rounds_left => {
                    actions.extend([Action::Campaign(number), Action::CampaignAnswerLost(number)]);
                }
                Candidate::Out => {}
                Candidate::Queued { .. } => {
                    actions.extend([Action::LookForVictory(number), Action::Observe(number)]);
                    actions.extend([true, false].map(|revoke| Action::EndRound {
                        candidate: number,
                        revoke,
                    }));
                }
                Candidate::Leads { valid, view, .. } => {
                    if valid {
                        actions.push(Action::DeadlinePasses(number));
                    } else {
                        actions.extend([true, false].map(|revoke| Action::EndRound {
                            candidate: number,
                            revoke,
                        }));
                    }
                    if valid && view.is_none() {
                        actions.push(Action::ReadView(number));
                    }
                }
            }
        }
        for (term, owner) in (1..).zip(&state.store.locks) {
            // The deadline of a term is before the end of its lease, if nothing meddles with that.
            if let Some(owner) = owner
                && (self.early_ends || !state.leads(*owner, term))
            {
                actions.push(Action::LeaseEnds(term));
            }
        }
        for (number, call) in state.calls.iter().enumerate() {
            match call.at {
                At::NotBegun => actions.extend(
                    (0..)
                        .zip(&state.candidates)
                        .map(|(instance, _)| Action::Begin { call: number, instance }),
                ),
                At::Instance(_) => actions.push(Action::Dispatch(number)),
                At::Forwarded { .. } => actions.push(Action::Receive(number)),
                At::Serving { .. } => actions.push(Action::Send(number)),
                At::Sent { .. } => actions.push(Action::Execute(number)),
                At::Answered { .. } => actions.extend([Action::Deliver(number), Action::LoseAnswer(number)]),
                At::Ended => {}
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Campaign(number) => {
                let own = state.store.put_lock(number);
                state.candidates[usize::from(number)] = Candidate::Queued { own, leader: None };
            }
            Action::CampaignAnswerLost(number) => {
                state.store.put_lock(number);
            }
            Action::LookForVictory(number) => {
                let Candidate::Queued { own, .. } = state.candidates[usize::from(number)] else {
                    return None;
                };
                let is_there = state.store.holds(own) || self.lacks(Without::RecheckOfOwnKey);
                let older = state.store.oldest().is_some_and(|(_, oldest)| oldest < own);
                state.candidates[usize::from(number)] = match (is_there, older) {
                    (true, true) => return None,
                    (true, false) => Candidate::Leads {
                        term: own,
                        valid: true,
                        view: None,
                    },
                    (false, _) => Candidate::Out,
                };
            }
            Action::Observe(number) => {
                let oldest = state.store.oldest();
                let Candidate::Queued { leader, .. } = &mut state.candidates[usize::from(number)] else {
                    return None;
                };
                *leader = oldest.filter(|(owner, _)| *owner != number);
            }
            Action::DeadlinePasses(number) => {
                let Candidate::Leads { valid, .. } = &mut state.candidates[usize::from(number)] else {
                    return None;
                };
                *valid = false;
            }
            Action::EndRound { candidate, revoke } => {
                let own = match state.candidates[usize::from(candidate)] {
                    Candidate::Queued { own, .. } => own,
                    Candidate::Leads { term, .. } => term,
                    Candidate::Out => return None,
                };
                if revoke {
                    state.store.delete_lock(own);
                }
                state.candidates[usize::from(candidate)] = Candidate::Out;
            }
            Action::LeaseEnds(term) => state.store.delete_lock(term),
            Action::ReadView(number) => {
                let holds = |term| state.store.holds(term) || self.lacks(Without::Guard);
                let Candidate::Leads { term, valid, view } = &mut state.candidates[usize::from(number)] else {
                    return None;
                };
                if holds(*term) {
                    *view = Some(state.store.version);
                } else {
                    *valid = false;
                }
            }
            Action::Begin { call, instance } => {
                state.calls[call].floor = state.newest;
                state.calls[call].at = At::Instance(instance);
            }
            Action::Dispatch(call) => {
                let At::Instance(instance) = state.calls[call].at else {
                    return None;
                };
                state.calls[call].at = match state.candidates[usize::from(instance)] {
                    Candidate::Leads {
                        term,
                        valid: true,
                        view: Some(_),
                    } => At::Serving {
                        leader: instance,
                        term,
                        from: instance,
                    },
                    Candidate::Queued {
                        leader: Some((to, expected)),
                        ..
                    } => {
                        state.calls[call].hops = 1;
                        At::Forwarded {
                            from: instance,
                            to,
                            expected,
                        }
                    }
                    // It is held.
                    _ => return None,
                };
            }
            Action::Receive(call) => {
                let At::Forwarded { from, to, expected } = state.calls[call].at else {
                    return None;
                };
                state.calls[call].at = match state.candidates[usize::from(to)] {
                    Candidate::Leads {
                        term,
                        valid: true,
                        view: Some(_),
                    } if term == expected => At::Serving { leader: to, term, from },
                    Candidate::Queued {
                        leader: Some((next, expected)),
                        ..
                    } if self.lacks(Without::HopLimit) => {
                        state.calls[call].hops = 2;
                        At::Forwarded {
                            from,
                            to: next,
                            expected,
                        }
                    }
                    // Refused before anything ran: it waits where it came from, and is dispatched anew.
                    _ => {
                        state.calls[call].hops = 0;
                        At::Instance(from)
                    }
                };
            }
            Action::Send(call) => {
                let At::Serving { leader, term, from } = state.calls[call].at else {
                    return None;
                };
                let view = state.view_mut(leader).copied();
                match (state.leads(leader, term), view) {
                    (true, Some(view)) if state.calls[call].kind == Kind::Read && self.lacks(Without::Barrier) => {
                        state.answer(call, view);
                    }
                    (true, Some(view)) => {
                        state.calls[call].at = At::Sent {
                            leader,
                            term,
                            from,
                            view,
                        };
                    }
                    _ => state.calls[call].at = At::Ended,
                }
            }
            Action::Execute(call) => {
                let At::Sent {
                    leader,
                    term,
                    from,
                    view,
                } = state.calls[call].at
                else {
                    return None;
                };
                let answer = self.execute(&mut state, call, term, view);
                state.calls[call].at = At::Answered {
                    leader,
                    term,
                    from,
                    answer,
                };
            }
            Action::Deliver(call) => {
                let At::Answered {
                    leader,
                    term,
                    from,
                    answer,
                } = state.calls[call].at
                else {
                    return None;
                };
                // Nobody answers for an ended term.
                if !state.leads(leader, term) {
                    state.calls[call].at = At::Ended;
                    return Some(state);
                }
                match answer {
                    Answer::FenceHolds => {
                        let view = state.view_mut(leader).copied().unwrap_or_default();
                        state.answer(call, view);
                    }
                    Answer::Wrote(version) => {
                        if let Some(view) = state.view_mut(leader) {
                            *view = version.max(*view);
                        }
                        state.answer(call, version);
                    }
                    Answer::Conflict(version) => {
                        if let Some(view) = state.view_mut(leader) {
                            *view = version.max(*view);
                        }
                        state.calls[call].at = At::Serving { leader, term, from };
                    }
                    Answer::FencedOut => {
                        if let Candidate::Leads { valid, .. } = &mut state.candidates[usize::from(leader)] {
                            *valid = false;
                        }
                        state.calls[call].at = At::Ended;
                    }
                }
            }
            Action::LoseAnswer(call) => {
                let At::Answered { from, .. } = state.calls[call].at else {
                    return None;
                };
                // The caller learns that nothing is known, and decides; a follower must not decide for it.
                state.calls[call].at = if self.lacks(Without::ProofThatNothingRan) && state.calls[call].runs < 2 {
                    At::Instance(from)
                } else {
                    At::Ended
                };
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no write of a term after one of a newer term", |_, state: &State| {
                state.broken != Some(Broken::Fencing)
            }),
            Property::always("reads and writes are linearizable", |_, state: &State| {
                state.broken != Some(Broken::Linearizability)
            }),
            Property::always("what was decided on is so", |_, state: &State| {
                state.broken != Some(Broken::OnTopOfWhatIsNotSo)
            }),
            Property::always("a call runs at most once", |_, state: &State| {
                state.calls.iter().all(|call| call.runs <= 1)
            }),
            Property::always("a call is forwarded once at most", |_, state: &State| {
                state.calls.iter().all(|call| call.hops <= 1)
            }),
            Property::sometimes("somebody leads", |_, state: &State| valid_terms(state).count() == 1),
            Property::sometimes("somebody leads in the last term", |model: &Self, state: &State| {
                valid_terms(state).any(|term| term == model.rounds)
            }),
            Property::sometimes(
                "all calls are carried out, one of them forwarded",
                |_, state: &State| {
                    let done = state.calls.iter().all(|call| call.at == At::Ended);
                    let written = state
                        .calls
                        .iter()
                        .filter(|call| call.kind == Kind::Write)
                        .all(|call| call.runs == 1);
                    done && written && state.calls.iter().any(|call| call.hops == 1)
                },
            ),
        ];
        if !self.early_ends {
            properties.extend([
                Property::always("at most one term is valid", |_, state: &State| {
                    valid_terms(state).count() <= 1
                }),
                Property::always("a valid term has its lock key", |_, state: &State| {
                    valid_terms(state).all(|term| state.store.holds(term))
                }),
            ]);
        }
        properties
    }
}

fn valid_terms(state: &State) -> impl Iterator<Item = Term> {
    state.candidates.iter().filter_map(|candidate| match candidate {
        Candidate::Leads { term, valid: true, .. } => Some(*term),
        _ => None,
    })
}

/// Without the safeguard the checker finds how the property is broken.
fn needs(model: Election, safeguard: Without, property: &'static str) {
    is_broken(model.without(safeguard), &safeguard, property);
}

/// As etcd and clocks promise: a lease does not end before the deadline of its term.
#[test]
fn the_election_holds_while_leases_last() {
    all_hold(Election::new(3, &[Kind::Write, Kind::Read], false));
}

/// Whatever becomes of leases: fencing alone keeps what is written and read right.
#[test]
fn the_state_is_right_whatever_becomes_of_leases() {
    all_hold(Election::new(3, &[Kind::Write, Kind::Read], true));
}

#[test]
fn writes_of_two_calls_are_in_order() {
    all_hold(Election::new(2, &[Kind::Write, Kind::Write], true));
}

#[test]
fn each_safeguard_is_needed() {
    let lasting = || Election::new(2, &[Kind::Read], false);
    let ending = |calls: &[Kind]| Election::new(2, calls, true);
    needs(lasting(), Without::RecheckOfOwnKey, "a valid term has its lock key");
    needs(
        ending(&[Kind::Write, Kind::Write]).without(Without::Conditions),
        Without::Conditions,
        "what was decided on is so",
    );
    needs(
        ending(&[Kind::Write, Kind::Read]),
        Without::Guard,
        "reads and writes are linearizable",
    );
    needs(
        ending(&[Kind::Write, Kind::Read]),
        Without::Barrier,
        "reads and writes are linearizable",
    );
    needs(
        ending(&[Kind::Write]),
        Without::ProofThatNothingRan,
        "a call runs at most once",
    );
    needs(
        Election::new(3, &[Kind::Read], true),
        Without::HopLimit,
        "a call is forwarded once at most",
    );
}

/// The guard alone: without conditions on what was read, a write of an old term would follow one of a newer.
#[test]
fn without_the_guard_an_ended_term_writes() {
    let model = Election::new(2, &[Kind::Write, Kind::Write], true);
    needs(model, Without::Guard, "no write of a term after one of a newer term");
}
