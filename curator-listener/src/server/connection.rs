//! One connection of a client, from its TLS handshake to its end.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::activity::{Activity, aged, idle, late};
use super::admission::ConnectionPermit;
use super::http2::{self, Calls};
use super::incoming::IncomingConnection;
use super::limits::Limits;
use super::tls::{self, HandshakeLimiter};
use crate::caller::{Caller, CallerCertificates};
use crate::dispatch::Dispatcher;
use crate::inbound::Ledger;
use crate::memory::Memory;
use crate::transport::{Io, Plain};

/// The state that all connections share.
pub(crate) struct Shared {
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// The memory budget of all callers.
    pub(crate) memory: Arc<Memory>,
    pub(crate) stopping: CancellationToken,
    /// Connections are not accepted any more. Cancelled later than `stopping`.
    pub(crate) stop_accepting: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Serves a connection until it ends or must make room for another one. Dropping the future closes it.
pub(crate) async fn serve(
    connection: IncomingConnection,
    permit: ConnectionPermit,
    shared: &Arc<Shared>,
    worker: usize,
    handshakes: &HandshakeLimiter,
) {
    let stream = match connection.open() {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "connection lost before it was served");
            return;
        }
    };
    let config = &shared.dispatcher.config;
    let _counted = shared.dispatcher.metrics.connection();
    let Some((io, shown, caller)) = handshake(stream, &permit, shared, handshakes).await else {
        return;
    };
    let activity = Activity::new(permit);
    let calls = Calls {
        shared: shared.clone(),
        worker,
        activity: activity.clone(),
        ledger: Ledger::new(shared.memory.of(&caller)),
        window: Limits::of(caller.standing, config).stream_window as usize,
        shown,
        caller,
    };
    // A client that connects while the instance is stopping knows no other address, and would reconnect at once.
    let stopping = if shared.stopping.is_cancelled() {
        &shared.stop_accepting
    } else {
        &shared.stopping
    };
    let leave = CancellationToken::new();
    let mut serving = pin!(http2::run(io, calls, &leave));
    let mut idle = pin!(idle(activity.clone(), config.idle_timeout));
    let mut aged = pin!(aged(config.max_connection_age));
    let mut late = pin!(late(activity.clone(), config.handshake_timeout));
    loop {
        tokio::select! {
            () = &mut serving => return,
            () = &mut late => {
                debug!("connection closed: no HTTP/2 preface in time");
                return;
            }
            () = activity.permit.cut() => {
                debug!("connection closed: it has made no call, and the connection limit is reached");
                return;
            }
            () = &mut idle, if !leave.is_cancelled() => {}
            () = &mut aged, if !leave.is_cancelled() => {}
            () = stopping.cancelled(), if !leave.is_cancelled() => {}
        }
        // Send a GOAWAY, accept no new calls, and end with the last call.
        leave.cancel();
    }
}

/// Does the TLS handshake, if the listener uses TLS. `None` if the connection has ended.
async fn handshake(
    stream: Plain,
    permit: &ConnectionPermit,
    shared: &Shared,
    handshakes: &HandshakeLimiter,
) -> Option<(Io, Option<CallerCertificates>, Caller)> {
    let config = &shared.dispatcher.config;
    let metrics = &shared.dispatcher.metrics;
    let Some(tls) = &config.tls else {
        return Some((Io::Plain(stream), None, Caller::at(permit.peer())));
    };
    let accepted = tokio::select! {
        accepted = timeout(config.handshake_timeout, tls::accept(stream, tls, handshakes)) => accepted,
        () = permit.cut() => {
            debug!("connection closed during its TLS handshake: too many new connections");
            return None;
        }
    };
    metrics.tls_handshake(matches!(accepted, Ok(Ok(_))));
    match accepted {
        Ok(Ok((io, shown, standing))) => {
            let caller = Caller::showing(&shown, standing, permit.peer());
            if let Err(why) = permit.is_of(&caller) {
                debug!(%why, "connection closed after its TLS handshake");
                return None;
            }
            Some((io, Some(shown), caller))
        }
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("connection closed: TLS handshake timed out");
            None
        }
    }
}
