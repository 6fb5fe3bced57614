//! Finds the boundaries of gRPC messages in a body.

/// The state of the parser. Each message has a prefix of one flag and four bytes of length.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: [u8; 5],
    known: usize,
    left: usize,
    /// How many bytes of the incomplete message have been read.
    so_far: usize,
}

impl Messages {
    /// Continues with further data. Returns how many bytes of the incomplete message have been read.
    pub(crate) fn read(&mut self, mut data: &[u8]) -> usize {
        while !data.is_empty() {
            let wanted = if self.left > 0 {
                self.left
            } else {
                self.head.len() - self.known
            };
            let (now, rest) = data.split_at(wanted.min(data.len()));
            data = rest;
            self.so_far += now.len();
            if self.left > 0 {
                self.left -= now.len();
            } else {
                self.head[self.known..self.known + now.len()].copy_from_slice(now);
                self.known += now.len();
                if self.known < self.head.len() {
                    continue;
                }
                let [_, l0, l1, l2, l3] = self.head;
                self.left = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                self.known = 0;
            }
            if self.left == 0 {
                self.so_far = 0;
            }
        }
        self.so_far
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_until_it_is_whole() {
        let mut messages = Messages::default();
        let message = [&[0, 0, 0, 0, 10][..], &[7; 10]].concat();
        assert_eq!(messages.read(&message[..3]), 3);
        assert_eq!(messages.read(&message[3..9]), 9);
        assert_eq!(messages.read(&message[9..]), 0);
        // Chunks that do not end with a message.
        let many = message.repeat(100);
        assert_eq!(messages.read(&many[..22]), 7);
        assert_eq!(messages.read(&many[22..]), 0);
        assert_eq!(messages.read(&[0; 50]), 0, "without a byte in it");
    }
}
