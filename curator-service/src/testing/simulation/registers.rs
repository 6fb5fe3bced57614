//! What the leader serves in a simulation: registers, read and written through the real state; as a gRPC service too.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use curator_election::memory::PauseSwitch;
use curator_election::store::Revision;
use http::uri::PathAndQuery;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::state::State;
use crate::testing::simulation::history::{Answer, CallId};
use crate::testing::simulation::terms::{SIDES, Value, register_key};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    /// Adds one to what is there.
    Add,
    /// Writes whatever is there.
    Put,
    Claim(usize),
    Release(usize),
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) id: CallId,
    pub(super) register: usize,
    pub(super) kind: Kind,
}

/// Its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) answer: Answer,
    /// Who answers, in which term.
    pub(super) node: usize,
    pub(super) term: Revision,
}

impl Asked {
    pub(super) fn encode(self) -> String {
        let (kind, side) = match self.kind {
            Kind::Read => ("read", 0),
            Kind::Add => ("add", 0),
            Kind::Put => ("put", 0),
            Kind::Claim(side) => ("claim", side),
            Kind::Release(side) => ("release", side),
        };
        format!("{} {} {kind} {side}", self.id, self.register)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (id, register) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (kind, side) = (words.next()?, words.next()?.parse().ok()?);
        let kind = match kind {
            "read" => Kind::Read,
            "add" => Kind::Add,
            "put" => Kind::Put,
            "claim" => Kind::Claim(side),
            "release" => Kind::Release(side),
            _ => return None,
        };
        Some(Self { id, register, kind })
    }
}

impl Told {
    fn encode(self) -> String {
        let answer = match self.answer {
            Answer::Read(None) => "nothing".to_owned(),
            Answer::Read(Some(by)) => by.to_string(),
            Answer::Wrote => "wrote".to_owned(),
            Answer::Unknown => "unknown".to_owned(),
        };
        format!("{answer} {} {}", self.node, self.term.0)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let answer = match words.next()? {
            "nothing" => Answer::Read(None),
            "wrote" => Answer::Wrote,
            by => Answer::Read(Some(by.parse().ok()?)),
        };
        Some(Self {
            answer,
            node: words.next()?.parse().ok()?,
            term: Revision(words.next()?.parse().ok()?),
        })
    }
}

/// The registers, as an instance serves them.
#[derive(Clone)]
pub(super) struct Registers {
    pub(super) node: usize,
    /// The state of the present term.
    pub(super) state: watch::Receiver<Option<Arc<State>>>,
    pub(super) gate: PauseSwitch,
    pub(super) killed: CancellationToken,
}

impl Registers {
    /// As a service of the leader in this term.
    pub(super) const fn in_term(self, lock_revision: i64) -> Serving {
        Serving {
            registers: self,
            term: Revision(lock_revision),
        }
    }

    /// With the state of the present term. `None` if there is none, or the process was killed meanwhile.
    pub(super) async fn carry_out(self, asked: Asked) -> Option<Result<Told, Status>> {
        let (node, killed) = (self.node, self.killed.clone());
        let mut state = self.state.clone();
        let work = async move {
            let state = state.borrow_and_update().clone()?;
            tokio::select! {
                biased;
                () = killed.cancelled() => None,
                answer = carry_out(node, state, asked) => Some(answer),
            }
        };
        self.gate.run(work).await
    }
}

async fn carry_out(node: usize, state: Arc<State>, asked: Asked) -> Result<Told, Status> {
    let Asked { id, register, kind } = asked;
    let term = state.fenced().term().lock_revision();
    let told = |answer| Told { answer, node, term };
    let key = register_key(register);
    let value = |count, adds| Value {
        by: id,
        term,
        count,
        adds,
    };
    let written = match kind {
        Kind::Read => {
            let read = state.read(|view| view.get(key.as_bytes()).and_then(|entry| Value::decode(&entry.value)));
            return Ok(told(Answer::Read(read.await?.map(|value| value.by))));
        }
        Kind::Add => {
            let add = state.transact(|tx| {
                let before = tx.get(key.clone()).and_then(|entry| Value::decode(&entry.value));
                tx.put(
                    key.clone(),
                    value(before.map_or(0, |before| before.count) + 1, true).encode(),
                );
                Ok(())
            });
            add.await
        }
        Kind::Put => {
            let put = state.transact(|tx| {
                tx.put(key.clone(), value(id * 1_000, false).encode());
                Ok(())
            });
            put.await
        }
        Kind::Claim(side) => {
            let claim = state.transact(|tx| {
                if tx.get(SIDES[1 - side]).is_some() {
                    return Err(Status::failed_precondition("the other side is claimed"));
                }
                tx.put(SIDES[side], value(0, false).encode());
                Ok(())
            });
            claim.await
        }
        Kind::Release(side) => {
            let release = state.transact(|tx| {
                tx.delete(SIDES[side]);
                Ok(())
            });
            release.await
        }
    };
    written.map(|()| told(Answer::Wrote))
}

/// The service that the leader has in a term.
#[derive(Clone)]
pub(super) struct Serving {
    registers: Registers,
    term: Revision,
}

/// Its one method.
pub(super) fn method() -> PathAndQuery {
    PathAndQuery::from_static("/simulation.Registers/Call")
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl NamedService for Serving {
    const NAME: &'static str = "simulation.Registers";
}

impl Service<http::Request<Body>> for Serving {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method(self.clone());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}

struct Method(Serving);

impl Service<tonic::Request<String>> for Method {
    type Response = tonic::Response<String>;
    type Error = Status;
    type Future = Answering<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        let Serving { registers, term } = self.0.clone();
        Box::pin(async move {
            let asked = Asked::decode(request.get_ref()).ok_or_else(|| Status::invalid_argument("no such call"))?;
            let (mut state, killed) = (registers.state.clone(), registers.killed.clone());
            let revision = |state: &Arc<State>| state.fenced().term().lock_revision();
            let is_of_term = |state: &Option<Arc<State>>| state.as_ref().is_some_and(|state| revision(state) == term);
            tokio::select! {
                biased;
                () = killed.cancelled() => return Err(Status::unavailable("killed")),
                // The listener and the state learn of a term by different tasks.
                there = state.wait_for(is_of_term) => { there.map_err(|_| Status::unavailable("killed"))?; }
            }
            match registers.carry_out(asked).await {
                Some(answer) => Ok(tonic::Response::new(answer?.encode())),
                None => Err(Status::unavailable("the term is over")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_answers_are_read_as_they_are_written() {
        for kind in [Kind::Read, Kind::Add, Kind::Put, Kind::Claim(1), Kind::Release(0)] {
            let asked = Asked {
                id: 7,
                register: 2,
                kind,
            };
            assert_eq!(Asked::decode(&asked.encode()), Some(asked));
        }
        for answer in [Answer::Read(None), Answer::Read(Some(3)), Answer::Wrote] {
            let told = Told {
                answer,
                node: 1,
                term: Revision(9),
            };
            assert_eq!(Told::decode(&told.encode()), Some(told));
        }
    }
}
