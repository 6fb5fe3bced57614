//! What every part of the listener knows of one call: its kind, head, deadline and lifetime, and how it is refused.

pub(crate) mod grpc_timeout;
pub(crate) mod head;
pub(crate) mod header_size;
pub(crate) mod lifetime;
pub(crate) mod refusal;

/// What a call is, as far as connections care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One message each way.
    Unary,
    /// Anything else, and what is not known. Incompatible from the others, so that bulk does not stand before what is small.
    Stream,
}
