//! The conformance suites: for a [`Store`](crate::store::Store), re-exported, and for an
//! [`ElectionBackend`](crate::ElectionBackend) in [`backends`].

pub mod backends;

pub use curator_store::conformance::{Case, cases, check_all, check_two};
