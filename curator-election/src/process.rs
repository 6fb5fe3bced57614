//! The identity of a candidate's process, as its value reports it.

use rand::RngExt;

/// The boot id of the kernel, random for each boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Distinguishes the processes of a candidate. An empty field is unknown.
///
/// Without these fields an election still detects two processes with one id, but only after one of them has ended the
/// other's term. With them it is detected before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// A random number, drawn when the process starts.
    pub number: String,
    /// The address that it listens at. Of all processes of one boot of one host, only one does so at a time.
    pub address: String,
    /// The boot id of its host.
    pub boot: String,
}

impl Process {
    /// The identity of this process, listening at `address`: a new random number, and the boot id if the kernel
    /// provides it.
    #[must_use]
    pub fn this(address: impl Into<String>) -> Self {
        Self {
            number: format!("{:032x}", rand::rng().random::<u128>()),
            address: address.into(),
            boot: std::fs::read_to_string(BOOT).map_or_else(|_| String::new(), |boot| boot.trim().to_owned()),
        }
    }

    /// Its address, for messages.
    pub(crate) fn place(&self) -> &str {
        match self.address.as_str() {
            "" => "an unknown address",
            address => address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_number_and_those_of_one_boot_say_so() {
        let (one, another) = (Process::this("h:1"), Process::this("h:1"));
        assert_ne!(one.number, another.number);
        assert_eq!((one.number.len(), one.place()), (32, "h:1"));
        assert_eq!(one.boot, another.boot);
        assert!(!one.boot.contains(char::is_whitespace), "{:?}", one.boot);
    }
}
