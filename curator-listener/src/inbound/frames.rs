//! Parses the frame headers of HTTP/2 to count inbound data. Source: RFC 9113, section 4.

/// The length of the client connection preface. Source: RFC 9113, section 3.4.
pub(crate) const PREFACE: usize = 24;

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;
const END_HEADERS: u8 = 4;

/// Receives what the parser finds.
pub(crate) trait FrameVisitor {
    /// Bytes of a request body on this stream. `begins` with the first bytes of a frame.
    fn data(&mut self, stream: u32, bytes: usize, begins: bool);

    /// Bytes of a head that is not complete.
    fn head(&mut self, bytes: usize);

    /// A head is complete.
    fn head_ends(&mut self);
}

/// The state of the parser.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes to skip: of the preface, or of a frame that is not counted.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// How many bytes of the frame header have been read.
    known: usize,
    /// The rest of a payload that is counted.
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    kind: u8,
    flags: u8,
    stream: u32,
    left: usize,
    begins: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            head: [0; FRAME_HEAD],
            known: 0,
            body: None,
        }
    }
}

impl Frames {
    /// Continues with further bytes.
    pub(crate) fn read(&mut self, mut bytes: &[u8], visitor: &mut impl FrameVisitor) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
            } else if let Some(body) = &mut self.body {
                let (now, rest) = bytes.split_at(body.left.min(bytes.len()));
                bytes = rest;
                body.take(now, &mut self.skip, visitor);
                if body.left == 0 {
                    self.body = None;
                }
            } else {
                let (now, rest) = bytes.split_at((FRAME_HEAD - self.known).min(bytes.len()));
                self.head[self.known..self.known + now.len()].copy_from_slice(now);
                self.known += now.len();
                bytes = rest;
                if self.known == FRAME_HEAD {
                    self.known = 0;
                    self.begin(visitor);
                }
            }
        }
    }

    fn begin(&mut self, visitor: &mut impl FrameVisitor) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        let left = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        // The first bit is reserved.
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        let is_counted = matches!(kind, DATA | HEADERS | CONTINUATION);
        if matches!(kind, HEADERS | CONTINUATION) && left == 0 && flags & END_HEADERS != 0 {
            visitor.head_ends();
        }
        if !is_counted {
            self.skip = left;
        } else if left > 0 {
            self.body = Some(Body {
                kind,
                flags,
                stream,
                left,
                begins: true,
            });
        }
    }
}

impl Body {
    fn take(&mut self, bytes: &[u8], skip: &mut usize, visitor: &mut impl FrameVisitor) {
        let mut counted = bytes.len();
        self.left -= bytes.len();
        if self.kind == DATA {
            if self.begins && self.flags & PADDED != 0 {
                // Padding is at the end, and its length comes first. Neither is kept in memory.
                let padding = bytes.first().map_or(0, |length| usize::from(*length));
                counted = counted.saturating_sub(1 + padding.saturating_sub(self.left));
                let later = padding.min(self.left);
                self.left -= later;
                *skip = later;
                self.flags &= !PADDED;
            }
            if counted > 0 {
                visitor.data(self.stream, counted, std::mem::take(&mut self.begins));
            }
            return;
        }
        visitor.head(counted);
        if self.left == 0 && self.flags & END_HEADERS != 0 {
            visitor.head_ends();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct RouteView {
        data: Vec<(u32, usize)>,
        frames: usize,
        head: usize,
        heads: usize,
    }

    impl FrameVisitor for RouteView {
        fn data(&mut self, stream: u32, bytes: usize, begins: bool) {
            self.frames += usize::from(begins);
            match self.data.last_mut() {
                Some((last, sum)) if *last == stream => *sum += bytes,
                _ => self.data.push((stream, bytes)),
            }
        }

        fn head(&mut self, bytes: usize) {
            self.head += bytes;
        }

        fn head_ends(&mut self) {
            self.heads += 1;
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&(stream | 1 << 31).to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn conversation() -> Vec<u8> {
        const SETTINGS: u8 = 4;
        let mut padded = vec![20];
        padded.extend_from_slice(&[7; 30 + 20]);
        [
            vec![b'x'; PREFACE],
            frame(SETTINGS, 0, 0, &[0; 6]),
            frame(HEADERS, 0, 1, &[1; 100]),
            frame(CONTINUATION, END_HEADERS, 1, &[1; 50]),
            frame(DATA, 0, 1, &[2; 1_000]),
            frame(DATA, PADDED, 1, &padded),
            frame(HEADERS, END_HEADERS, 3, &[]),
            frame(DATA, 0, 3, &[]),
            frame(DATA, 1, 3, &[3; 5]),
        ]
        .concat()
    }

    fn expected() -> RouteView {
        RouteView {
            data: vec![(1, 1_030), (3, 5)],
            frames: 3,
            head: 150,
            heads: 2,
        }
    }

    #[test]
    fn what_is_kept_of_frames_is_counted() {
        let mut seen = RouteView::default();
        Frames::default().read(&conversation(), &mut seen);
        assert_eq!(seen, expected());
    }

    proptest! {
        #[test]
        fn however_it_comes_in_pieces_it_is_the_same(cuts in proptest::collection::vec(1_usize..200, 1..200)) {
            let (all, mut seen, mut frames) = (conversation(), RouteView::default(), Frames::default());
            let mut rest = &all[..];
            for cut in cuts.iter().cycle() {
                let (now, then) = rest.split_at((*cut).min(rest.len()));
                frames.read(now, &mut seen);
                rest = then;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, expected());
        }

        #[test]
        fn whatever_comes_it_is_never_more_than_that(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let mut seen = RouteView::default();
            Frames::default().read(&bytes, &mut seen);
            let counted: usize = seen.data.iter().map(|(_, bytes)| bytes).sum();
            prop_assert!(counted + seen.head <= bytes.len());
        }
    }
}
