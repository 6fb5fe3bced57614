//! A network in memory, for listeners in a simulation: who connects to whom, and what happens between two of them, is up to the
//! simulation. Without the feature `simulation` none of it is there.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// As much is under link in each direction at most, in bytes.
const BUFFER_SIZE: usize = 64 << 10;
/// How often something that does not get through is tried again.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A network. Cheap to clone; equal seeds give equal delays.
#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    hosts: BTreeMap<SocketAddr, mpsc::UnboundedSender<Incoming>>,
    links: BTreeMap<(SocketAddr, SocketAddr), Link>,
    rng: StdRng,
}

/// A connection that arrives, and who connects.
pub(crate) type Incoming = (DuplexStream, SocketAddr);

/// What happens from one address to another; the link back is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing gets through: it waits, as with TCP.
    pub cut: bool,
    /// The longest delay; each is drawn anew.
    pub delay: Duration,
    /// How often connections between the two were broken.
    resets: u64,
}

/// A listener's end of the network: who is listened to with, and as whom one connects.
#[derive(Clone, Debug)]
pub struct SimHost {
    network: Network,
    address: SocketAddr,
}

impl Network {
    /// A network without anybody.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    /// The host with this address.
    #[must_use]
    pub fn host(&self, address: SocketAddr) -> SimHost {
        SimHost {
            network: self.clone(),
            address,
        }
    }

    /// Changes the link from one to another.
    pub fn set_link(&self, from: SocketAddr, to: SocketAddr, cut: bool, delay: Duration) {
        let mut state = self.state();
        let link = state.links.entry((from, to)).or_default();
        (link.cut, link.delay) = (cut, delay);
    }

    /// Breaks all connections between two.
    pub fn reset(&self, one: SocketAddr, other: SocketAddr) {
        let mut state = self.state();
        for between in [(one, other), (other, one)] {
            state.links.entry(between).or_default().resets += 1;
        }
    }

    fn link(&self, from: SocketAddr, to: SocketAddr) -> Link {
        self.state().links.get(&(from, to)).cloned().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-link.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what comes, until one side ends or the connection is broken.
    async fn pump(
        self,
        (from, to): (SocketAddr, SocketAddr),
        mut source: impl AsyncReadExt + Unpin,
        mut sink: impl AsyncWriteExt + Unpin,
    ) {
        let mut buffer = vec![0; BUFFER_SIZE];
        while let Ok(count) = source.read(&mut buffer).await
            && count > 0
        {
            let link = self.link(from, to);
            if !link.delay.is_zero() {
                let part = self.state().rng.random_range(0.0..=1.0);
                sleep(link.delay.mul_f64(part)).await;
            }
            while self.link(from, to).cut {
                sleep(POLL_INTERVAL).await;
            }
            if sink.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        let _ = sink.shutdown().await;
    }
}

impl SimHost {
    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What jitter is drawn from, so that a seed runs the same link each time.
    pub(crate) fn jitter(&self) -> f64 {
        self.network.state().rng.random_range(0.5..1.0)
    }

    /// Takes connections from now on, until the returned end is dropped.
    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Incoming> {
        let (arrived, arriving) = mpsc::unbounded_channel();
        self.network.state().hosts.insert(self.address, arrived);
        arriving
    }

    /// Connects to a host.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<DuplexStream> {
        let network = self.network.clone();
        while network.link(self.address, address).cut || network.link(address, self.address).cut {
            sleep(POLL_INTERVAL).await;
        }
        let (near, near_end) = duplex(BUFFER_SIZE);
        let (far, far_end) = duplex(BUFFER_SIZE);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let arrived = network.state().hosts.get(&address).cloned().ok_or_else(refused)?;
        arrived.send((far, self.address)).map_err(|_| refused())?;
        let links = [(self.address, address), (address, self.address)];
        let begun = links.map(|(from, to)| network.link(from, to).resets);
        tokio::spawn(async move {
            let (near_source, near_sink) = split(near_end);
            let (far_source, far_sink) = split(far_end);
            let [there, back] = links;
            let broken = async {
                while links.map(|(from, to)| network.link(from, to).resets) == begun {
                    sleep(POLL_INTERVAL).await;
                }
            };
            let pumping = async {
                tokio::join!(
                    network.clone().pump(there, near_source, far_sink),
                    network.clone().pump(back, far_source, near_sink)
                )
            };
            tokio::select! {
                biased;
                _ = pumping => {}
                () = broken => {}
            }
        });
        Ok(near)
    }
}
