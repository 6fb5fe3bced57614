//! The ways to one server: straight, and through one in between.
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::error::{Context, Result};
use curator_harness::ports::Port;
use curator_harness::process::{Process, ProcessSpec};
use curator_harness::which::on_path;
use curator_harness::{TempDir, step, wait_until};

use super::cpu;

/// What takes no time worth speaking of.
const SOON: Duration = Duration::from_secs(10);
/// Where Debian puts what only root is thought to need.
const SBIN: &str = "/usr/sbin";

/// One way to the server.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) name: &'static str,
    port: Port,
    process: Process,
    /// Whether the processor time of the process is of interest.
    counted: bool,
    /// The certificates that it speaks TLS with, if it does.
    certificates: Option<PathBuf>,
}

/// All of them, the straight one first. Dropping them stops everything.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) all: Vec<Route>,
}

impl Route {
    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn certificates(&self) -> Option<&Path> {
        self.certificates.as_deref()
    }

    /// What its process has taken so far, if that is of interest.
    pub(super) fn cpu(&self) -> Result<Duration> {
        if self.counted {
            cpu::of_process(self.process.pid())
        } else {
            Ok(Duration::ZERO)
        }
    }

    fn start(
        name: &'static str,
        counted: bool,
        scratch: &TempDir,
        certificates: Option<&Path>,
        spec: impl FnOnce(SocketAddr) -> Result<ProcessSpec>,
    ) -> Result<Self> {
        let port = Port::reserve()?;
        let process = Process::start(&spec(port.address())?, scratch)?;
        let way = Self {
            name,
            port,
            process,
            counted,
            certificates: certificates.map(Path::to_owned),
        };
        wait_until(format!("{name} to listen"), SOON, || {
            TcpStream::connect(way.address()).ok().map(drop)
        })?;
        Ok(way)
    }
}

impl Ways {
    /// Starts the server and all that can be had in front of it; all of it with TLS if there are certificates.
    pub(super) fn start(front: &Path, scratch: &TempDir, certificates: Option<&Path>) -> Result<Self> {
        let way = |name, counted, words: &[&str]| Self::front(name, counted, front, scratch, certificates, words);
        let direct = way("direct", false, &["--lead"])?;
        let leader = direct.address();
        let follower = way("follower", true, &["--follow", &leader.to_string()])?;
        let mut all = vec![direct, follower];
        all.extend(Self::nginx(scratch, certificates, leader)?);
        all.extend(Self::haproxy(scratch, certificates, leader)?);
        Ok(Self { all })
    }

    /// One instance with one thread, and nginx, which has one as well, with TLS and without: for what connections cost.
    pub(super) fn ends(front: &Path, scratch: &TempDir, certificates: &Path) -> Result<Self> {
        let mut all = Vec::new();
        for certificates in [None, Some(certificates)] {
            let instance = Self::front(
                "instance",
                true,
                front,
                scratch,
                certificates,
                &["--lead", "--threads", "1"],
            )?;
            let leader = instance.address();
            all.push(instance);
            all.extend(Self::nginx(scratch, certificates, leader)?);
        }
        Ok(Self { all })
    }

    fn front(
        name: &'static str,
        counted: bool,
        front: &Path,
        scratch: &TempDir,
        certificates: Option<&Path>,
        words: &[&str],
    ) -> Result<Route> {
        Route::start(name, counted, scratch, certificates, |address| {
            let spec = ProcessSpec::new(label(name, certificates), front).args(["--listen", &address.to_string()]);
            let tls = certificates.map(|directory| directory.display().to_string());
            let tls = tls.iter().flat_map(|directory| ["--tls", directory]);
            Ok(spec.args(words).args(tls))
        })
    }

    fn nginx(scratch: &TempDir, certificates: Option<&Path>, leader: SocketAddr) -> Result<Option<Route>> {
        let Some(nginx) = program("nginx") else {
            step::say("SKIPPED: nginx is not installed (Debian: nginx-light)");
            return Ok(None);
        };
        let way = Route::start("nginx", true, scratch, certificates, |address| {
            let name = label("nginx", certificates);
            let directory = scratch.dir(&name)?;
            let text = nginx_conf(&directory, address, leader, certificates);
            let config = write(&directory.join("nginx.conf"), &text)?;
            Ok(ProcessSpec::new(name, &nginx).args(["-p", &directory.display().to_string(), "-c", &config]))
        })?;
        Ok(Some(way))
    }

    fn haproxy(scratch: &TempDir, certificates: Option<&Path>, leader: SocketAddr) -> Result<Option<Route>> {
        let Some(haproxy) = program("haproxy") else {
            step::say("SKIPPED: haproxy is not installed (Debian: haproxy)");
            return Ok(None);
        };
        let way = Route::start("haproxy", true, scratch, certificates, |address| {
            let name = label("haproxy", certificates);
            let directory = scratch.dir(&name)?;
            if let Some(certificates) = certificates {
                // It wants a certificate and its key in one file.
                for party in [SERVER, CLIENT] {
                    let part = |end: &str| {
                        let path = certificates.join(format!("{party}{end}"));
                        fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))
                    };
                    write(
                        &directory.join(format!("{party}.pem")),
                        &(part(".pem")? + &part("-key.pem")?),
                    )?;
                }
            }
            let text = haproxy_cfg(&directory, address, leader, certificates);
            let config = write(&directory.join("haproxy.cfg"), &text)?;
            Ok(ProcessSpec::new(name, &haproxy).args(["-db", "-f", &config]))
        })?;
        Ok(Some(way))
    }
}

/// The names in the certificates that the load makes.
const SERVER: &str = "the-leader";
const CLIENT: &str = "a-client";

/// What the log of a process is called.
fn label(name: &str, certificates: Option<&Path>) -> String {
    match certificates {
        Some(_) => format!("{name}-tls"),
        None => name.to_owned(),
    }
}

fn program(name: &str) -> Option<PathBuf> {
    on_path(name).or_else(|| Some(Path::new(SBIN).join(name)).filter(|path| path.is_file()))
}

fn write(path: &Path, text: &str) -> Result<String> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}

/// One process with one thread, that keeps its connections and logs nothing. TLS sessions are not resumed, as ours are
/// not.
fn nginx_conf(directory: &Path, listen: SocketAddr, leader: SocketAddr, certificates: Option<&Path>) -> String {
    let directory = directory.display();
    let (ssl, scheme, tls) = match certificates.map(Path::display) {
        None => ("", "grpc", String::new()),
        Some(certificates) => (
            " ssl",
            "grpcs",
            format!(
                "
    ssl_protocols TLSv1.3;
    ssl_certificate {certificates}/{SERVER}.pem;
    ssl_certificate_key {certificates}/{SERVER}-key.pem;
    ssl_client_certificate {certificates}/ca.pem;
    ssl_verify_client on;
    ssl_session_cache off;
    ssl_session_tickets off;
    grpc_ssl_protocols TLSv1.3;
    grpc_ssl_certificate {certificates}/{CLIENT}.pem;
    grpc_ssl_certificate_key {certificates}/{CLIENT}-key.pem;
    grpc_ssl_trusted_certificate {certificates}/ca.pem;
    grpc_ssl_verify on;
    grpc_ssl_server_name on;
    grpc_ssl_name {SERVER};"
            ),
        ),
    };
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 100000000;
  client_max_body_size 0;
  http2_max_concurrent_streams 1024;
  upstream leader {{ server {leader}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {listen}{ssl} http2;{tls}
    location / {{ grpc_pass {scheme}://leader; grpc_read_timeout 1h; }}
  }}
}}
"
    )
}

fn haproxy_cfg(directory: &Path, listen: SocketAddr, leader: SocketAddr, certificates: Option<&Path>) -> String {
    let directory = directory.display();
    let (bind, server) = match certificates.map(Path::display) {
        None => ("proto h2".to_owned(), "proto h2".to_owned()),
        Some(certificates) => (
            format!(
                "ssl crt {directory}/{SERVER}.pem ca-file {certificates}/ca.pem verify required ssl-min-ver TLSv1.3 \
                 no-tls-tickets alpn h2"
            ),
            format!(
                "ssl crt {directory}/{CLIENT}.pem ca-file {certificates}/ca.pem verify required ssl-min-ver TLSv1.3 \
                 alpn h2 sni str({SERVER}) verifyhost {SERVER}"
            ),
        ),
    };
    format!(
        "global
  nbthread 1
  maxconn 4096
  tune.h2.max-concurrent-streams 1024
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend in
  bind {listen} {bind}
  default_backend out
backend out
  http-reuse always
  server leader {leader} {server}
"
    )
}
