//! Hosts with a network of their own: network namespaces on one bridge, and what becomes of what one sends to another.
//!
//! Needs root, and `ip` and `ss` of iproute2. What is lost is lost as on a wire: the sender takes another interface's
//! hardware address for the receiver's, so that its packets reach nobody, and its TCP goes on to try. What is refused
//! is told so at once, and what was open is closed. The bridge has an address too, from which this process reaches all
//! hosts whatever becomes of the links between them.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio, id};
use std::time::Duration;

use rustix::process::geteuid;

use super::child::{Orphan, bound};
use super::run::run;
use crate::error::{Error, Result};
use crate::step;
use crate::which::on_path;

/// How long a change of the network may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the names of our namespaces begin with; the number of the process that made them follows.
const PREFIX: &str = "curator-hosts-";
/// Nobody's hardware address.
const NOBODY: &str = "02:00:00:00:00:00";

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Host {
    /// Its address on the bridge.
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(self.address)
    }

    /// The name of its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// What becomes of what one host sends to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// It arrives.
    #[default]
    Open,
    /// It is lost.
    Lost,
    /// What is open is closed, and nothing can be opened.
    Refused,
}

/// Some hosts on one bridge. All of it goes when this is dropped.
#[derive(Debug)]
pub struct Hosts {
    bridge: String,
    hosts: Vec<Host>,
}

impl Hosts {
    /// So many of them.
    ///
    /// # Errors
    /// When this process is not root, or `ip` or `ss` is missing or fails.
    pub fn start(count: u8) -> Result<Self> {
        if !geteuid().is_root() {
            return Err(Error::new(
                "network namespaces are root's: run this as root, or without",
            ));
        }
        for tool in ["ip", "ss"] {
            if on_path(tool).is_none() {
                return Err(Error::new(format!(
                    "network namespaces need `{tool}`: install iproute2, or run this without"
                )));
            }
        }
        sweep();
        let id = id();
        // Addresses for tests of networks, RFC 2544, which no real network has.
        let [high, low] = [18 + (id >> 8 & 1), id & 0xff].map(|part| u8::try_from(part).unwrap_or(18));
        let address = |number| Ipv4Addr::new(198, high, low, number);
        // From here on there is somebody who takes it away again.
        let mut this = Self {
            bridge: format!("cu{id}b"),
            hosts: Vec::new(),
        };
        let bridge = this.bridge.clone();
        ip(["link", "add", &bridge, "type", "bridge"])?;
        ip(["address", "add", &format!("{}/24", address(254)), "dev", &bridge])?;
        ip(["link", "set", &bridge, "up"])?;
        for number in 1..=count {
            let namespace = format!("{PREFIX}{id}-{number}");
            let address = address(number);
            ip(["netns", "add", &namespace])?;
            this.hosts.push(Host {
                namespace: namespace.clone(),
                address,
            });
            let port = port(id, number);
            let hardware = hardware(number);
            ip([
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "address", &hardware, "netns", &namespace,
            ])?;
            ip(["link", "set", &port, "master", &bridge, "up"])?;
            let within = ["-netns", &namespace];
            let address = format!("{address}/24");
            for args in [
                &["address", "add", &address, "dev", "eth0"][..],
                &["link", "set", "eth0", "up"],
                &["link", "set", "lo", "up"],
            ] {
                ip([&within[..], args].concat())?;
            }
        }
        for from in 0..this.hosts.len() {
            for to in (0..this.hosts.len()).filter(|to| *to != from) {
                this.neighbour(from, to, &hardware_of(to))?;
            }
        }
        Ok(this)
    }

    /// The hosts, by number.
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// Switches what one host sends to another.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set(&self, from: usize, to: usize, link: Link) -> Result<()> {
        let (namespace, there) = (&self.hosts[from].namespace, self.hosts[to].address.to_string());
        if link == Link::Refused {
            ip(["-netns", namespace, "route", "replace", "unreachable", &there])?;
            return self.within(from, "ss", &["--kill", "--tcp", "dst", &there]);
        }
        let hardware = match link {
            Link::Lost => NOBODY.to_owned(),
            Link::Open | Link::Refused => hardware_of(to),
        };
        self.neighbour(from, to, &hardware)?;
        quietly(["-netns", namespace, "route", "delete", "unreachable", &there]);
        Ok(())
    }

    /// Lets a host send no more than so many bits a second; `None`: as much as it likes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn narrow(&self, host: usize, bits: Option<u32>) -> Result<()> {
        let begin = ["qdisc", "replace", "dev", "eth0", "root"];
        match bits {
            Some(bits) => {
                let rate = format!("{bits}bit");
                let bucket = ["tbf", "rate", &rate, "burst", "3000", "latency", "2s"];
                self.within(host, "tc", &[&begin[..], &bucket].concat())
            }
            None => self.within(host, "tc", &["qdisc", "delete", "dev", "eth0", "root"]),
        }
    }

    fn neighbour(&self, from: usize, to: usize, hardware: &str) -> Result<()> {
        let (namespace, there) = (&self.hosts[from].namespace, self.hosts[to].address.to_string());
        ip([
            "-netns",
            namespace,
            "neighbour",
            "replace",
            &there,
            "lladdr",
            hardware,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])
    }

    fn within(&self, host: usize, program: &str, args: &[&str]) -> Result<()> {
        let words = [&["netns", "exec", &self.hosts[host].namespace, program][..], args].concat();
        ip(words)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for (number, host) in (1..).zip(&self.hosts) {
            // The system itself takes its time with what ends with a namespace.
            quietly(["link", "delete", &port(id(), number)]);
            quietly(["netns", "delete", &host.namespace]);
        }
        quietly(["link", "delete", &self.bridge]);
    }
}

/// The end of a host's cable that is at the bridge.
fn port(maker: u32, number: u8) -> String {
    format!("cu{maker}h{number}")
}

/// The hardware address of the host with that number.
fn hardware(number: u8) -> String {
    format!("02:00:00:00:01:{number:02x}")
}

fn hardware_of(host: usize) -> String {
    hardware(u8::try_from(host + 1).unwrap_or(u8::MAX))
}

/// Takes away what a run has left that was killed.
fn sweep() {
    let Ok(there) = fs::read_dir("/run/netns") else { return };
    let mut dead = Vec::new();
    for name in there.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let Some((id, number)) = maker(&name) else { continue };
        if !Path::new("/proc").join(id.to_string()).exists() {
            step::say(format_args!("a run that was killed has left {name}: it is taken away"));
            quietly(["link", "delete", &port(id, number)]);
            quietly(["netns", "delete", &name]);
            dead.push(id);
        }
    }
    dead.dedup();
    for id in dead {
        quietly(["link", "delete", &format!("cu{id}b")]);
    }
}

/// The number of the process that made a namespace of ours, and the host's.
fn maker(name: &str) -> Option<(u32, u8)> {
    let (maker, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some((maker.parse().ok()?, number.parse().ok()?))
}

fn ip<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<()> {
    let mut command = bound("ip", Orphan::Kill);
    command.args(args);
    let shown = crate::child::typed(&command);
    run(command, PATIENCE)?.success(&shown).map(drop)
}

/// Takes something away that may not be there, even when we were told to stop.
fn quietly<const N: usize>(args: [&str; N]) {
    let mut command = Command::new("ip");
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = command.status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_namespace_is_stands_in_its_name() {
        assert_eq!(maker("curator-hosts-4194304-2"), Some((4_194_304, 2)));
        assert_eq!(maker("curator-hosts-x-2"), None);
        assert_eq!(maker("of-others"), None);
    }
}
