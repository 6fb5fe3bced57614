//! What every part of the listener needs to know of one call: kind, head, deadline, lifetime and refusal.

pub(crate) mod grpc_timeout;
pub(crate) mod head;
pub(crate) mod header_size;
pub(crate) mod lifetime;
pub(crate) mod refusal;

/// The kind of a call. It decides which connection to the leader the call uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One request message and one response message.
    Unary,
    /// Any stream, and every method whose kind is unknown. Streams use separate connections, so that bulk transfers
    /// do not delay small calls.
    Stream,
}
