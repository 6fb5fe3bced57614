//! A small HTTP server for GET requests.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curator_election::clock::{BootClock, Clock};
use curator_identity::CredentialsWatch;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::gauges;
use crate::status::LeaderStatus;
use crate::status_page::term_history::TermHistory;
use crate::status_page::{Observe, page};

/// Maximum number of open connections; further connections wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Time to wait for a request before the connection is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, for example when no file descriptor is free.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The data that the status server shows.
pub(crate) struct StatusSources {
    pub(crate) node_id: String,
    pub(crate) status: watch::Receiver<LeaderStatus>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) terms: TermHistory,
    pub(crate) credentials: Option<CredentialsWatch>,
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The endpoints that belong to another etcd cluster.
    pub(crate) foreign: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

/// The bound socket of the status server.
pub(crate) struct StatusServer {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl StatusServer {
    pub(crate) fn bind(observe: &Observe) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(observe.listen)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests until cancelled.
    pub(crate) async fn run(self, sources: StatusSources, cancel: CancellationToken) -> io::Result<()> {
        let socket = TcpListener::from_std(self.socket)?;
        let address = self.address;
        let (sources, permits) = (Arc::new(sources), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&socket, &permits) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let sources = sources.clone();
                    connections.spawn(async move {
                        serve(stream, sources, address).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "status server: accept failed");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            }
        }
        connections.shutdown().await;
        Ok(())
    }
}

/// Accepts the next connection once a permit is free. Cancellation safe.
async fn accept(
    socket: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((socket.accept().await?.0, permit))
}

async fn serve(stream: TcpStream, sources: Arc<StatusSources>, address: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&sources, &request, address);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "status server: connection failed");
    }
}

fn answer<B>(sources: &StatusSources, request: &Request<B>, address: SocketAddr) -> Response<Full<Bytes>> {
    if address.ip().is_loopback() && !meant_for_this_host(request, address.ip()) {
        return text(
            StatusCode::MISDIRECTED_REQUEST,
            "unexpected Host header; use localhost or the listen address",
        );
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported");
        refused
            .headers_mut()
            .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let ready = *sources.ready.borrow();
    match request.uri().path() {
        "/" => typed(StatusCode::OK, "text/html; charset=utf-8", page::HTML.into()),
        "/status.json" => {
            let mut shown = page::status(
                &sources.node_id,
                &sources.status.borrow(),
                ready,
                &sources.terms,
                BootClock.now(),
            );
            shown["foreign_etcd_endpoints"] = (sources.foreign)().into();
            typed(StatusCode::OK, "application/json", shown.to_string())
        }
        "/metrics" => {
            gauges::update(
                &sources.status.borrow(),
                ready,
                sources.terms.silent_for(BootClock.now()),
            );
            gauges::update_certificates(sources.credentials.as_ref());
            typed(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                (sources.metrics)(),
            )
        }
        // A response is proof of liveness.
        "/livez" => text(StatusCode::OK, "alive"),
        "/readyz" if ready => text(StatusCode::OK, "ready: calls to this instance reach a leader"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: no leader is reachable"),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; available paths: /, /status.json, /metrics, /livez and /readyz",
        ),
    }
}

/// Protects against DNS rebinding: a foreign page may point its own name at this address, to read the status with a
/// visitor's browser. Only names of this host and the configured address are accepted, with any port, since a port may
/// be forwarded from another host.
fn meant_for_this_host<B>(request: &Request<B>, configured: IpAddr) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    match (first.map(http::HeaderValue::to_str), second) {
        // Browsers always send a Host header.
        (None, _) => true,
        (Some(Ok(host)), None) => {
            let name = name_in(host).unwrap_or_default();
            let own = [configured, Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| own.contains(&ip))
        }
        (Some(_), _) => false,
    }
}

/// Returns the name or address in `host` or `host:port`; `None` if it is malformed.
fn name_in(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(ip, _)| ip.contains(':'))?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port =
        |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

fn text(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", format!("{words}\n"))
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use curator_election::{ElectionStatus, Reason};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn sources(ready: bool) -> StatusSources {
        let (_, status) = watch::channel(ElectionStatus::Undetermined(Reason::Starting));
        let (_, ready) = watch::channel(ready);
        StatusSources {
            node_id: "me".into(),
            status,
            ready,
            terms: TermHistory::default(),
            credentials: None,
            metrics: Arc::new(|| "curator_ready 1\n".into()),
            foreign: Arc::new(Vec::new),
        }
    }

    fn asked(sources: &StatusSources, method: &str, path: &str, host: &str) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .body(())
            .unwrap();
        answer(sources, &request, "127.0.0.9:7836".parse().unwrap()).status()
    }

    #[test]
    fn alive_and_ready_differ() {
        let get = |ready, path| asked(&sources(ready), "GET", path, "127.0.0.1:7836");
        assert_eq!(get(false, "/livez"), StatusCode::OK);
        assert_eq!(get(false, "/readyz"), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get(true, "/readyz"), StatusCode::OK);
        assert_eq!(get(true, "/nothing"), StatusCode::NOT_FOUND);
    }

    #[test]
    fn it_is_read_from_this_host_and_by_nobody_elses_page() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:7836",
            "127.0.0.9:7836",
            "localhost:1",
            "Localhost",
            "[::1]:7836",
            "[::1]",
        ] {
            assert_eq!(asked(&sources(true), "GET", "/", host), StatusCode::OK, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7836",
            "127.0.0.1.evil.example",
            "localhost:1:evil.com",
            "localhost:",
            "localhost:evil",
            "localhost:+1",
            "localhost:99999",
            "localhost.evil.example",
            "[::1]evil.example",
            "[::1]:1:2",
            "[localhost]",
            "[127.0.0.1]",
            "::1",
            "192.0.2.1",
            "192.0.2.1:7836",
            "127.0.0.8:7836",
            "[2001:db8::1]:7836",
            "0.0.0.0",
            "",
        ] {
            assert_eq!(
                asked(&sources(true), "GET", "/", host),
                StatusCode::MISDIRECTED_REQUEST,
                "{host}"
            );
        }
        assert_eq!(
            asked(&sources(true), "POST", "/", "localhost"),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[tokio::test]
    async fn it_answers_on_a_socket_until_cancelled() {
        let observe = Observe {
            listen: "127.0.0.1:0".parse().unwrap(),
            metrics: Arc::new(String::new),
        };
        let observatory = StatusServer::bind(&observe).unwrap();
        let address = observatory.address();
        let cancel = CancellationToken::new();
        let running = tokio::spawn(observatory.run(sources(true), cancel.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        assert!(
            told.starts_with("HTTP/1.1 200") && told.ends_with("curator_ready 1\n"),
            "{told}"
        );
        // An idle connection does not delay shutdown.
        let _silent = TcpStream::connect(address).await.unwrap();
        cancel.cancel();
        running.await.unwrap().unwrap();
    }
}
