//! The HTTP/2 limits of one connection, by the class of its caller.

use std::time::Duration;

use h2::server::Builder;

use crate::caller::Standing;
use crate::config::{ListenerConfig, window_of_all};

/// How much of a response h2 may buffer.
const SEND_BUFFER: usize = 64 << 10;
/// How long streams that this side has reset are remembered. The client may have sent frames before it saw the reset;
/// frames of a forgotten stream are errors, and too many errors close the connection.
const RESETS_REMEMBERED: Duration = Duration::from_secs(4);
/// The stream window of a stranger is this many times smaller.
const STRANGER_WINDOW_DIVISOR: u32 = 4;
/// The maximum size of a head that is read. Larger than what is accepted, so that the client gets a refusal; a head
/// above this size closes the connection.
const MAX_HEADERS_READ: u32 = 1 << 20;
const MAX_STRANGER_HEADERS_READ: u32 = 256 << 10;

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The maximum number of concurrent calls.
    pub(super) calls: u32,
    /// The window of one call, in bytes.
    pub(super) stream_window: u32,
    /// The maximum size of a head that is read.
    heads: u32,
    /// The maximum number of streams that were reset before they were accepted (CVE-2023-44487). A client may cancel
    /// all of its calls at once, make as many again, and cancel those.
    pending_resets: usize,
    /// The maximum number of remembered resets.
    remembered: usize,
    /// The maximum number of protocol errors of the client, in all its calls.
    errors: usize,
}

impl Limits {
    /// A follower carries the calls of many callers on one connection, so it may do more than a stranger, but not
    /// everything.
    pub(super) fn of(standing: Standing, config: &ListenerConfig) -> Self {
        let (calls, stream_window, heads, errors) = match standing {
            Standing::User | Standing::Member => (
                config.max_concurrent_calls,
                config.stream_window,
                MAX_HEADERS_READ,
                16_384,
            ),
            Standing::Stranger => (
                config.calls_of_stranger(),
                config.stream_window / STRANGER_WINDOW_DIVISOR,
                MAX_STRANGER_HEADERS_READ,
                1_024,
            ),
        };
        let all = usize::try_from(calls).unwrap_or(usize::MAX);
        let many = all.saturating_mul(4);
        Self {
            calls,
            stream_window,
            heads: heads.max(config.max_headers_read()),
            pending_resets: many,
            // Not counted in the memory budget: half a kilobyte each.
            remembered: match standing {
                Standing::User | Standing::Member => many,
                Standing::Stranger => all,
            },
            errors,
        }
    }

    /// An h2 builder with these limits.
    pub(super) fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .initial_window_size(self.stream_window)
            // The memory budget bounds the data of all calls: no call may wait for the reader of another one.
            .initial_connection_window_size(window_of_all(self.stream_window, self.calls))
            .max_concurrent_streams(self.calls)
            .max_header_list_size(self.heads)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(self.pending_resets)
            .max_concurrent_reset_streams(self.remembered)
            .reset_stream_duration(RESETS_REMEMBERED)
            .max_local_error_reset_streams(Some(self.errors));
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::calls_of_stranger;

    #[test]
    fn stalled_calls_cannot_take_a_connections_window() {
        assert_eq!(window_of_all(256 << 10, 1_024), 256 << 20);
        assert_eq!(window_of_all(u32::MAX, 1_024), 0x7fff_ffff);
    }

    #[test]
    fn strangers_have_less_and_as_many_calls_as_clients_take_for_granted() {
        let config = ListenerConfig::default();
        let [known, stranger] = [Standing::Member, Standing::Stranger].map(|standing| Limits::of(standing, &config));
        assert_eq!((known.calls, stranger.calls), (1_024, 128));
        assert!(stranger.stream_window < known.stream_window);
        assert_eq!([calls_of_stranger(256), calls_of_stranger(8)], [100, 8]);
    }
}
