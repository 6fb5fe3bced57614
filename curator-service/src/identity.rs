//! Who is who: node ids, Ed25519 keys, and the certificates that bind them. Pure; no I/O.

mod authority;
#[cfg(test)]
mod golden;
mod key;
mod signatures;
mod verify;

pub(crate) use authority::{Authority, AuthorityError, Subject, ephemeral};
pub use key::{KeyError, PrivateKey};
pub(crate) use verify::{
    Identity, VerifyError, ends_at, is_certificate, is_crl, public_key_of, says_member, self_signed_key, validity,
    verify,
};

use crate::state::keys::hex;

/// The id of the node with this public key; `None` if that is no key.
///
/// It is made of the first half of the key alone, so two keys may share an id.
#[must_use]
pub fn node_id(public_key: &[u8]) -> Option<String> {
    let half = public_key.get(..16).filter(|_| public_key.len() == 32)?;
    Some(format!("metropolis-{}", hex(half)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_first_half_of_the_key() {
        let key: Vec<u8> = (0..32).collect();
        assert_eq!(
            node_id(&key).as_deref(),
            Some("metropolis-000102030405060708090a0b0c0d0e0f")
        );
        assert_eq!(node_id(&key[..31]), None);
        assert_eq!(node_id(&[]), None);
    }
}
