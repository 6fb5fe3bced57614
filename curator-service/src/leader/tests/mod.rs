//! The leader on the model of etcd: what each call does, whatever else happens meanwhile.

mod fencing;
mod lifecycle;
mod networking;
mod nodes;
mod stage;
mod upkeep;
mod watching;
