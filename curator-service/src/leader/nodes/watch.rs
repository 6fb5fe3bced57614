//! Watches of nodes. Each remembers which changes it has told, and nothing else: what a slow one has missed comes together in
//! the newest state of each node.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use curator_proto::curator_api::WatchRequest;
use curator_proto::curator_api::watch_event::{NodeTombstone, Progress};
use curator_proto::curator_api::watch_request::Kind;
use futures::Stream;
use tokio::sync::watch;
use tonic::Status;
use tracing::warn;

use crate::auth::Caller;
use crate::leader::Leader;
use crate::leader::nodes::backlogs::{Backlogs, Turn};
use crate::leader::nodes::encoded::EncodedEvent;
use crate::leader::nodes::lookup;
use crate::state::State;
use crate::state::keys::NODES;
use crate::state::view::{Changed, TooFarBehind};
use crate::telemetry;

/// An event of the backlog is sent once it is larger. Small, so that a backlog leaves room for whatever else the thread has to
/// do between two of them, and so that a watcher who does not read holds no more than one.
const CHUNK: usize = 64 << 10;
/// How many nodes are taken out of the view at a time, and how many changes.
const NODES_AT_ONCE: usize = 64;
const CHANGES_AT_ONCE: usize = 16;

pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<EncodedEvent, Status>> + Send>>;

impl Leader {
    /// Watches one node or all.
    pub(crate) async fn watch(&self, caller: &Caller, request: WatchRequest) -> Result<Events, Status> {
        let what = match request.kind {
            Some(Kind::NodeInCluster(one)) => {
                NODES
                    .key(&one.node_id)
                    .map_err(|error| Status::invalid_argument(format!("node_in_cluster.node_id: {error}")))?;
                What::One(one.node_id)
            }
            Some(Kind::NodesInCluster(_)) => What::All,
            None => return Err(Status::unimplemented("kind: it is none that is known")),
        };
        self.state.read_barrier().await?;
        let news = self.state.changes();
        let watcher = Watcher {
            what,
            caller: caller.clone(),
            told: 0,
            backlog: Backlog::Begins,
            ready: VecDeque::new(),
            backlogs: self.backlogs.clone(),
            turn: None,
            news,
            state: self.state.clone(),
            _counted: Counted::new(),
        };
        Ok(Box::pin(futures::stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(event) => Some((Ok(event), Some(watcher))),
                Err(status) => Some((Err(status), None)),
            }
        })))
    }
}

enum What {
    One(String),
    All,
}

enum Backlog {
    Begins,
    /// All nodes up to this one are told.
    Upto(Arc<str>),
    Told,
}

struct Watcher {
    what: What,
    /// Who watches.
    caller: Caller,
    /// The number of the newest change that is told.
    told: u64,
    backlog: Backlog,
    ready: VecDeque<EncodedEvent>,
    backlogs: Arc<Backlogs>,
    /// To be told the backlog.
    turn: Option<Turn>,
    news: watch::Receiver<u64>,
    state: Arc<State>,
    _counted: Counted,
}

/// One of the open watches.
struct Counted(metrics::Gauge);

impl Counted {
    fn new() -> Self {
        let gauge = metrics::gauge!(telemetry::WATCHERS);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Watcher {
    async fn next(&mut self) -> Result<EncodedEvent, Status> {
        loop {
            self.state
                .fenced()
                .term()
                .check()
                .map_err(|_| Status::unavailable("lost leadership"))?;
            // Asked for more: whoever does that has taken what was told before.
            match (&self.turn, &self.backlog, &self.what) {
                (None, Backlog::Begins, What::All) => {
                    self.turn = tokio::select! {
                        turn = self.backlogs.turn(&self.caller) => turn,
                        () = self.state.term_ended() => return Err(Status::unavailable("lost leadership")),
                    };
                }
                (Some(_), Backlog::Told, _) if self.ready.is_empty() => self.turn = None,
                (Some(turn), ..) => turn.moves(),
                (None, ..) => {}
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            // Before looking, so that what comes meanwhile wakes.
            self.news.mark_unchanged();
            // What it has found may all be of no use to a watcher: then there may be more.
            let found = self.look()?;
            if self.ready.is_empty() && !found {
                tokio::select! {
                    // The sender is in the state.
                    _ = self.news.changed() => {}
                    () = self.state.term_ended() => return Err(Status::unavailable("lost leadership")),
                }
            }
        }
    }

    /// Takes what is new out of the view. Says whether there was anything.
    fn look(&mut self) -> Result<bool, Status> {
        match &self.what {
            What::All => match &self.backlog {
                Backlog::Begins => {
                    self.told = self.state.view().newest();
                    self.tell_backlog(None);
                    Ok(true)
                }
                Backlog::Upto(id) => {
                    let id = id.clone();
                    self.tell_backlog(Some(&id));
                    Ok(true)
                }
                Backlog::Told => {
                    let changes = self.state.view().changes_after(self.told, CHANGES_AT_ONCE);
                    let changes = changes.map_err(too_far)?;
                    let found = !changes.is_empty();
                    for change in changes {
                        self.told = change.number;
                        self.ready.extend(event_for_all(change));
                    }
                    Ok(found)
                }
            },
            What::One(id) => {
                let (newest, change) = {
                    let view = self.state.view();
                    let after = match self.backlog {
                        Backlog::Begins => 0,
                        _ => self.told,
                    };
                    let change = match self.backlog {
                        // What was deleted before is no news.
                        Backlog::Begins if view.node(id).is_none() => Ok(None),
                        _ => view.change_of(id, after),
                    };
                    (view.newest(), change)
                };
                self.backlog = Backlog::Told;
                self.told = newest;
                self.ready.extend(change.map_err(too_far)?.map(event).transpose()?);
                // All of one node's changes come as one.
                Ok(false)
            }
        }
    }

    /// Makes the next events of the backlog; what changes meanwhile is told after it.
    fn tell_backlog(&mut self, after: Option<&str>) {
        let (nodes, last) = {
            let view = self.state.view();
            let taken: Vec<_> = view
                .nodes_after(after)
                .take(NODES_AT_ONCE)
                .map(|(id, node)| (id.clone(), node.clone()))
                .collect();
            let more = taken.len() == NODES_AT_ONCE;
            (taken, !more)
        };
        let mut event = EncodedEvent::default();
        let mut size = 0;
        let mut told = None;
        let mut full = false;
        for (id, node) in nodes {
            match node {
                Ok(node) => {
                    let node = node.watched();
                    size += node.len();
                    event.nodes.push(node);
                }
                Err(corrupt) => warn!(%corrupt, "a node is left out of a watch"),
            }
            told = Some(id);
            full = size > CHUNK;
            if full {
                break;
            }
        }
        match (told, last && !full) {
            (_, true) => {
                event.progress = Progress::LastBacklogged.into();
                self.backlog = Backlog::Told;
                self.ready.push_back(event);
            }
            (Some(id), false) => {
                self.backlog = Backlog::Upto(id);
                if !event.nodes.is_empty() {
                    self.ready.push_back(event);
                }
            }
            // Full without a node cannot be.
            (None, false) => self.backlog = Backlog::Told,
        }
    }
}

fn too_far(error: TooFarBehind) -> Status {
    Status::unavailable(error.to_string())
}

/// What a watch of all nodes is told. A record that cannot be used is no reason to end it.
fn event_for_all(change: Changed) -> Option<EncodedEvent> {
    match event(change) {
        Ok(event) => Some(event),
        Err(status) => {
            warn!(reason = status.message(), "a node is left out of a watch");
            None
        }
    }
}

fn event(change: Changed) -> Result<EncodedEvent, Status> {
    match change.node {
        Some(Ok(node)) => Ok(EncodedEvent {
            nodes: vec![node.watched()],
            ..EncodedEvent::default()
        }),
        Some(Err(corrupt)) => Err(lookup::unusable(&corrupt)),
        None => Ok(EncodedEvent {
            node_tombstones: vec![NodeTombstone {
                node_id: change.id.to_string(),
            }],
            ..EncodedEvent::default()
        }),
    }
}
