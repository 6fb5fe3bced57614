//! What one connection may do, by who is at its other end.

use std::time::Duration;

use h2::server::Builder;

use crate::caller::Standing;
use crate::config::{ListenerConfig, window_of_all};

/// As much of an answer is given to HTTP/2 at a time, which sends it as the client takes it.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that this side has reset are remembered for so long, since the client may have sent more before it saw that. Frames
/// of streams that nobody remembers are errors, and too many errors end a connection.
const RESETS_REMEMBERED: Duration = Duration::from_secs(4);
/// The window of a stream and the calls on a connection are so many times less for strangers ...
const STRANGER_WINDOW_DIVISOR: u32 = 4;
/// The longest heads that are read, so that whoever sends one that is not taken is told so: what is longer by far ends the
/// connection.
const MAX_HEADERS_READ: u32 = 1 << 20;
const MAX_STRANGER_HEADERS_READ: u32 = 256 << 10;

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Calls at a time.
    pub(super) calls: u32,
    /// What may be under way of one call's messages, in bytes.
    pub(super) stream_window: u32,
    /// The longest head that is read.
    heads: u32,
    /// Streams that are reset before they are looked at (CVE-2023-44487). A client may give up all of its calls at once, make
    /// as many again, and give up those.
    pending_resets: usize,
    /// Streams that were reset and are remembered.
    remembered: usize,
    /// Errors of the client's own making, of all its calls.
    errors: usize,
}

impl Limits {
    /// A follower has the calls of many callers on one connection, so that it may do more than a stranger, and not as much as
    /// it likes.
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
            // They are not counted in the budget: half a kilobyte each.
            remembered: match standing {
                Standing::User | Standing::Member => many,
                Standing::Stranger => all,
            },
            errors,
        }
    }

    /// What speaks HTTP/2 within them.
    pub(super) fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .initial_window_size(self.stream_window)
            // What is kept of all calls is bounded by the budget of memory: no call must wait for the reader of another one.
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
