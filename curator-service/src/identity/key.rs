//! Private keys, as the original stores them: the 32-byte seed, then the 32-byte public key.

use std::fmt;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

/// An Ed25519 private key. It is wiped when it is dropped, and never shown.
pub(crate) struct PrivateKey {
    bytes: Zeroizing<[u8; 64]>,
    pair: Ed25519KeyPair,
}

/// Bytes that are no private key, or a key that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("a private key is 64 bytes, seed and public key, and this is {0}")]
    Length(usize),
    #[error("the public half of the private key is not that of its seed")]
    Mismatch,
    #[error("the system has no random numbers")]
    Random,
}

impl PrivateKey {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        use ring::rand::SecureRandom;
        let mut seed = Zeroizing::new([0; 32]);
        ring::rand::SystemRandom::new()
            .fill(&mut *seed)
            .map_err(|_| KeyError::Random)?;
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Mismatch)?;
        let mut bytes = Zeroizing::new([0; 64]);
        bytes[..32].copy_from_slice(seed);
        bytes[32..].copy_from_slice(pair.public_key().as_ref());
        Ok(Self { bytes, pair })
    }

    /// As it is stored.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (seed, public) = match bytes.split_first_chunk::<32>() {
            Some((seed, public)) if public.len() == 32 => (seed, public),
            _ => return Err(KeyError::Length(bytes.len())),
        };
        let key = Self::from_seed(seed)?;
        match key.public_key() == public {
            true => Ok(key),
            false => Err(KeyError::Mismatch),
        }
    }

    /// As it is to be stored.
    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        self.bytes.clone()
    }

    pub(crate) fn public_key(&self) -> &[u8] {
        &self.bytes[32..]
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_as_it_was_stored() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_bytes(&key.to_bytes()[..]).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    /// RFC 8032, 7.1, test 1.
    #[test]
    fn the_public_half_is_that_of_the_seed() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
            0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let key = PrivateKey::from_seed(&seed).unwrap();
        assert_eq!(key.public_key()[..4], [0xd7, 0x5a, 0x98, 0x01]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for length in [0, 32, 63, 65] {
            assert_eq!(
                PrivateKey::from_bytes(&vec![1; length]).unwrap_err(),
                KeyError::Length(length)
            );
        }
        assert_eq!(PrivateKey::from_bytes(&[1; 64]).unwrap_err(), KeyError::Mismatch);
    }
}
