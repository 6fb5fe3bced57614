//! A network in memory for listeners in a simulation. The simulation controls the links between the hosts.
//!
//! Only available with the feature `simulation`.

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

/// The maximum number of bytes in transit in each direction.
const BUFFER_SIZE: usize = 64 << 10;
/// How often blocked data is retried.
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

/// A new connection, and the address of the client.
pub(crate) type Incoming = (DuplexStream, SocketAddr);

/// The link from one address to another. The opposite direction is another link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// No data gets through: it waits, as with TCP.
    pub cut: bool,
    /// The maximum delay. Each delay is random.
    pub delay: Duration,
    /// How often connections between the two were broken.
    resets: u64,
}

/// A host of the network. It listens on its address and connects from it.
#[derive(Clone, Debug)]
pub struct SimHost {
    network: Network,
    address: SocketAddr,
}

impl Network {
    /// A network without hosts.
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

    /// Changes the link from one address to another.
    pub fn set_link(&self, from: SocketAddr, to: SocketAddr, cut: bool, delay: Duration) {
        let mut state = self.state();
        let link = state.links.entry((from, to)).or_default();
        (link.cut, link.delay) = (cut, delay);
    }

    /// Breaks all connections between two addresses.
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
        // No panic is possible while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forwards data until one side ends or the connection is broken.
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
    /// The address of the host.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Random jitter from the seed, so that a run is reproducible.
    pub(crate) fn jitter(&self) -> f64 {
        self.network.state().rng.random_range(0.5..1.0)
    }

    /// Accepts connections until the returned receiver is dropped.
    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Incoming> {
        let (arrived, arriving) = mpsc::unbounded_channel();
        self.network.state().hosts.insert(self.address, arrived);
        arriving
    }

    /// Connects to a host.
    ///
    /// # Errors
    /// If nothing listens on the address.
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
