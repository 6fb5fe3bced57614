//! The ways to one server: straight, and through one in between.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Context, Result};
use crate::harness::ports::Port;
use crate::harness::process::{Process, ProcessSpec};
use crate::harness::{Scratch, wait_until};
use crate::step;
use crate::tools::on_path;

use super::cpu;

/// What takes no time worth speaking of.
const SOON: Duration = Duration::from_secs(10);
/// Where Debian puts what only root is thought to need.
const SBIN: &str = "/usr/sbin";

/// One way to the server.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    port: Port,
    process: Process,
    /// Whether the process is in between, and not the server itself.
    between: bool,
}

/// All of them, the straight one first. Dropping them stops everything.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) all: Vec<Way>,
}

impl Way {
    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What the one in between has taken so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        match self.between {
            true => cpu::of_process(self.process.pid()),
            false => Ok(Duration::ZERO),
        }
    }

    fn start(
        name: &'static str,
        between: bool,
        scratch: &Scratch,
        spec: impl FnOnce(SocketAddr) -> Result<ProcessSpec>,
    ) -> Result<Self> {
        let port = Port::reserve()?;
        let process = Process::start(&spec(port.address())?, scratch)?;
        let way = Self {
            name,
            port,
            process,
            between,
        };
        wait_until(format!("{name} to listen"), SOON, || {
            TcpStream::connect(way.address()).ok().map(drop)
        })?;
        Ok(way)
    }
}

impl Ways {
    /// Starts the server and all that can be had in front of it.
    pub(super) fn start(front: &Path, scratch: &Scratch) -> Result<Self> {
        let direct = Way::start("direct", false, scratch, |address| {
            Ok(ProcessSpec::new("leader", front).args(["--listen", &address.to_string(), "--lead"]))
        })?;
        let leader = direct.address();
        let follower = Way::start("follower", true, scratch, |address| {
            Ok(ProcessSpec::new("follower", front).args([
                "--listen",
                &address.to_string(),
                "--follow",
                &leader.to_string(),
            ]))
        })?;
        let mut all = vec![direct, follower];
        match program("nginx") {
            Some(nginx) => all.push(Way::start("nginx", true, scratch, |address| {
                let directory = scratch.dir("nginx")?;
                let config = write(&directory.join("nginx.conf"), &nginx_conf(&directory, address, leader))?;
                Ok(ProcessSpec::new("nginx", &nginx).args(["-p", &directory.display().to_string(), "-c", &config]))
            })?),
            None => step::say("SKIPPED: nginx is not installed (Debian: nginx-light)"),
        }
        match program("haproxy") {
            Some(haproxy) => all.push(Way::start("haproxy", true, scratch, |address| {
                let directory = scratch.dir("haproxy")?;
                let config = write(&directory.join("haproxy.cfg"), &haproxy_cfg(address, leader))?;
                Ok(ProcessSpec::new("haproxy", &haproxy).args(["-db", "-f", &config]))
            })?),
            None => step::say("SKIPPED: haproxy is not installed (Debian: haproxy)"),
        }
        Ok(Self { all })
    }
}

fn program(name: &str) -> Option<PathBuf> {
    on_path(name).or_else(|| Some(Path::new(SBIN).join(name)).filter(|path| path.is_file()))
}

fn write(path: &Path, text: &str) -> Result<String> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}

/// One process with one thread, that keeps its connections and logs nothing.
fn nginx_conf(directory: &Path, listen: SocketAddr, leader: SocketAddr) -> String {
    let directory = directory.display();
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
    listen {listen} http2;
    location / {{ grpc_pass grpc://leader; grpc_read_timeout 1h; }}
  }}
}}
"
    )
}

fn haproxy_cfg(listen: SocketAddr, leader: SocketAddr) -> String {
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
  bind {listen} proto h2
  default_backend out
backend out
  http-reuse always
  server leader {leader} proto h2
"
    )
}
