//! Identity and TLS with real processes: the whole life of a cluster, who is refused, and what nobody can pretend.

mod alerts;
mod clients;
mod cluster;
mod hostile;
mod life;
mod moving;
mod prometheus;
mod proof;
mod refusals;
mod renewal;
mod rotation;
mod secrets;
mod spans;
mod spoofing;
mod unreached;
