//! Which process of a candidate a value is of, as far as the value says so.

use rand::RngExt;

/// The kernel draws this anew at each boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// What tells one process of a candidate from another. Whatever is empty has not been said.
///
/// With none of it an election still notices two processes with one id, though only once one of them has taken the other's term
/// away. What they say of themselves spares them that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Drawn when the process starts: no two have the same.
    pub number: String,
    /// Where it listens. Of all processes of one boot of one host, only one does so at a time.
    pub address: String,
    /// The boot of the host that it runs on.
    pub boot: String,
}

impl Process {
    /// What this process says of itself if it listens at `address`: a number drawn now, and the boot that it runs in, where the
    /// kernel tells it.
    #[must_use]
    pub fn this(address: impl Into<String>) -> Self {
        Self {
            number: format!("{:032x}", rand::rng().random::<u128>()),
            address: address.into(),
            boot: std::fs::read_to_string(BOOT).map_or_else(|_| String::new(), |boot| boot.trim().to_owned()),
        }
    }

    /// Where it is, for people.
    pub(crate) fn place(&self) -> &str {
        match self.address.as_str() {
            "" => "an address that it does not say",
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
