//! Node watches. A watch only remembers the number of the last change that it sent; a slow watch skips intermediate
//! states and receives the newest state of each node.

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

/// An event of the backlog is sent once it exceeds this size. Small events let the thread do other work in between, and
/// an idle watcher buffers at most one.
const CHUNK: usize = 64 << 10;
/// Maximum number of nodes or changes taken from the view at a time.
const NODES_AT_ONCE: usize = 64;
const CHANGES_AT_ONCE: usize = 16;

pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<EncodedEvent, Status>> + Send>>;

impl Leader {
    /// Watches one node or all nodes.
    pub(crate) async fn watch(&self, caller: &Caller, request: WatchRequest) -> Result<Events, Status> {
        let target = match request.kind {
            Some(Kind::NodeInCluster(one)) => {
                NODES
                    .key(&one.node_id)
                    .map_err(|error| Status::invalid_argument(format!("node_in_cluster.node_id: {error}")))?;
                Target::One(one.node_id)
            }
            Some(Kind::NodesInCluster(_)) => Target::All,
            None => return Err(Status::unimplemented("kind: unknown value")),
        };
        self.state.read_barrier().await?;
        let news = self.state.changes();
        let watcher = Watcher {
            target,
            caller: caller.clone(),
            sent: 0,
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

enum Target {
    One(String),
    All,
}

enum Backlog {
    Begins,
    /// All nodes up to this ID were sent.
    Upto(Arc<str>),
    Sent,
}

struct Watcher {
    target: Target,
    /// The caller of the watch.
    caller: Caller,
    /// The number of the last change that was sent.
    sent: u64,
    backlog: Backlog,
    ready: VecDeque<EncodedEvent>,
    backlogs: Arc<Backlogs>,
    /// The turn to send the backlog.
    turn: Option<Turn>,
    news: watch::Receiver<u64>,
    state: Arc<State>,
    _counted: Counted,
}

/// Counts an open watch.
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
            // A stream lives on while the term is suspended: what it tells is true.
            if self.state.fenced().term().has_ended() {
                return Err(Status::unavailable("lost leadership"));
            }
            // The client asked for another event, so it has read the previous one.
            match (&self.turn, &self.backlog, &self.target) {
                (None, Backlog::Begins, Target::All) => {
                    self.turn = tokio::select! {
                        turn = self.backlogs.turn(&self.caller) => turn,
                        () = self.state.term_ended() => return Err(Status::unavailable("lost leadership")),
                    };
                }
                (Some(_), Backlog::Sent, _) if self.ready.is_empty() => self.turn = None,
                (Some(turn), ..) => turn.moves(),
                (None, ..) => {}
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            // Mark before reading the view, so that a concurrent change wakes the watch.
            self.news.mark_unchanged();
            // The changes read may all be irrelevant to the watch; there may be more.
            let found = self.read_changes()?;
            if self.ready.is_empty() && !found {
                tokio::select! {
                    // The state holds the sender, so it is not dropped first.
                    _ = self.news.changed() => {}
                    () = self.state.term_ended() => return Err(Status::unavailable("lost leadership")),
                }
            }
        }
    }

    /// Reads changes from the view. Returns whether there were any.
    fn read_changes(&mut self) -> Result<bool, Status> {
        match &self.target {
            Target::All => match &self.backlog {
                Backlog::Begins => {
                    self.sent = self.state.view().newest();
                    self.fill_backlog(None);
                    Ok(true)
                }
                Backlog::Upto(id) => {
                    let id = id.clone();
                    self.fill_backlog(Some(&id));
                    Ok(true)
                }
                Backlog::Sent => {
                    let changes = self.state.view().changes_after(self.sent, CHANGES_AT_ONCE);
                    let changes = changes.map_err(too_far)?;
                    let found = !changes.is_empty();
                    for change in changes {
                        self.sent = change.number;
                        self.ready.extend(event_for_all(change));
                    }
                    Ok(found)
                }
            },
            Target::One(id) => {
                let (newest, change) = {
                    let view = self.state.view();
                    let after = match self.backlog {
                        Backlog::Begins => 0,
                        _ => self.sent,
                    };
                    let change = match self.backlog {
                        // A deletion before the watch started is not reported.
                        Backlog::Begins if view.node(id).is_none() => Ok(None),
                        _ => view.change_of(id, after),
                    };
                    (view.newest(), change)
                };
                self.backlog = Backlog::Sent;
                self.sent = newest;
                self.ready.extend(change.map_err(too_far)?.map(event).transpose()?);
                // Several changes of one node are merged into one.
                Ok(false)
            }
        }
    }

    /// Builds the next events of the backlog; concurrent changes are sent after it.
    fn fill_backlog(&mut self, after: Option<&str>) {
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
        let mut last_sent = None;
        let mut full = false;
        for (id, node) in nodes {
            match node {
                Ok(node) => {
                    let node = node.watched();
                    size += node.len();
                    event.nodes.push(node);
                }
                Err(corrupt) => warn!(%corrupt, "skipping an invalid node record in a watch"),
            }
            last_sent = Some(id);
            full = size > CHUNK;
            if full {
                break;
            }
        }
        match (last_sent, last && !full) {
            (_, true) => {
                event.progress = Progress::LastBacklogged.into();
                self.backlog = Backlog::Sent;
                self.ready.push_back(event);
            }
            (Some(id), false) => {
                self.backlog = Backlog::Upto(id);
                if !event.nodes.is_empty() {
                    self.ready.push_back(event);
                }
            }
            // An event over the limit has at least one node.
            (None, false) => self.backlog = Backlog::Sent,
        }
    }
}

fn too_far(error: TooFarBehind) -> Status {
    Status::unavailable(error.to_string())
}

/// The message of a node in a watch of all nodes. An invalid record does not end the watch.
fn event_for_all(change: Changed) -> Option<EncodedEvent> {
    match event(change) {
        Ok(event) => Some(event),
        Err(status) => {
            warn!(reason = status.message(), "skipping an invalid node record in a watch");
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
