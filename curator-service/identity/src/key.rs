//! Private keys. In the store: 32 bytes of seed and 32 bytes of public key, as in the Go Curator. In files: PKCS #8 in
//! PEM, as openssl and Go write it. The Go Curator's key files are read as well: a node's file has the 64 bytes of the
//! store, and the owner's file has them in PEM with a label of its own.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

/// An Ed25519 private key. `Debug` does not print it, and its bytes are zeroed on drop; the copy inside the signing
/// library is freed but not zeroed.
pub struct PrivateKey {
    seed: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    pair: Ed25519KeyPair,
}

/// Why bytes are not a private key, or a key cannot be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The stored form has the wrong length.
    #[error("a private key has 64 bytes (seed and public key), not {0}")]
    Length(usize),
    /// The public half does not match the seed.
    #[error("the public half of the private key does not match its seed")]
    Mismatch,
    /// The system's random number generator failed.
    #[error("the random number generator of the system failed")]
    Random,
    /// The text contains no private key.
    #[error("no PEM block that starts with \"{BEGIN}\"")]
    Pem,
    /// The private key is of another kind.
    #[error("the private key is not an Ed25519 key in PKCS #8")]
    Kind,
}

/// The lines around a key in PEM.
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// The lines around the owner's key in a file of the Go Curator.
const OWNERS_BEGIN: &str = "-----BEGIN METROPOLIS INITIAL OWNER PRIVATE KEY-----";
const OWNERS_END: &str = "-----END METROPOLIS INITIAL OWNER PRIVATE KEY-----";
/// The bytes before an Ed25519 seed in PKCS #8, version 1 (RFC 8410, section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

impl PrivateKey {
    /// Generates a key.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn generate() -> Result<Self, KeyError> {
        use ring::rand::SecureRandom;
        let mut seed = Zeroizing::new([0; 32]);
        ring::rand::SystemRandom::new()
            .fill(&mut *seed)
            .map_err(|_| KeyError::Random)?;
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Mismatch)?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self {
            seed: Zeroizing::new(*seed),
            public,
            pair,
        })
    }

    /// Reads a key from PEM; other text around it is ignored.
    ///
    /// # Errors
    /// If there is no key, or it is of another kind.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(text).map_err(|_| KeyError::Pem)?;
        let between = |begin, end| text.split_once(begin)?.1.split_once(end).map(|(body, _)| body);
        let (body, is_pkcs8) = match between(BEGIN, END) {
            Some(body) => (body, true),
            None => (between(OWNERS_BEGIN, OWNERS_END).ok_or(KeyError::Pem)?, false),
        };
        // Full capacity at once: growing would leave copies in memory.
        let mut base64 = Zeroizing::new(Vec::with_capacity(body.len()));
        base64.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        let mut der = Zeroizing::new(vec![0; base64.len()]);
        let length = STANDARD.decode_slice(&*base64, &mut der).map_err(|_| KeyError::Pem)?;
        if is_pkcs8 {
            Self::from_pkcs8(&der[..length])
        } else {
            Self::from_bytes(&der[..length])
        }
    }

    /// Reads the contents of a key file: PEM, or the 64 bytes of the stored form.
    pub fn from_file(bytes: &[u8]) -> Result<Self, KeyError> {
        match bytes.len() {
            // Too short for PEM.
            64 => Self::from_bytes(bytes),
            _ => Self::from_pem(bytes),
        }
    }

    /// Reads PKCS #8, version 1 or 2; version 2 has the public key after the seed.
    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError::Kind)?;
        // Both versions have the seed at the same offset.
        let seed: Option<&[u8; 32]> = der.get(PKCS8.len()..).and_then(<[u8]>::first_chunk);
        Self::from_seed(seed.ok_or(KeyError::Kind)?)
    }

    /// Encodes the key as PKCS #8, version 1.
    pub fn to_pkcs8(&self) -> Zeroizing<[u8; 48]> {
        let mut der = Zeroizing::new([0; 48]);
        der[..16].copy_from_slice(&PKCS8);
        der[16..].copy_from_slice(&*self.seed);
        der
    }

    /// Encodes the key as PEM.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(BEGIN);
        text.push('\n');
        STANDARD.encode_string(self.to_pkcs8().as_slice(), &mut text);
        text.push('\n');
        text.push_str(END);
        text.push('\n');
        text
    }

    /// Reads the stored form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (seed, public) = match bytes.split_first_chunk::<32>() {
            Some((seed, public)) if public.len() == 32 => (seed, public),
            _ => return Err(KeyError::Length(bytes.len())),
        };
        let key = Self::from_seed(seed)?;
        if key.public == public {
            Ok(key)
        } else {
            Err(KeyError::Mismatch)
        }
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        let mut bytes = Zeroizing::new([0; 64]);
        bytes[..32].copy_from_slice(&*self.seed);
        bytes[32..].copy_from_slice(&self.public);
        bytes
    }

    /// The public half.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public
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
    use crate::hex;

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
    fn a_key_in_a_file_is_as_others_write_it() {
        // By `openssl genpkey -algorithm ED25519`, and its public key by `openssl pkey -pubout`.
        let theirs = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHLDa0BGntYkr0vJssgtzQTIYvFtz1aT+k3yG/oc2rdI\n-----END PRIVATE KEY-----\n";
        let key = PrivateKey::from_pem(theirs.as_bytes()).unwrap();
        assert_eq!(key.to_pem().as_str(), theirs);
        assert_eq!(
            hex(key.public_key()),
            "36e2176fa6dc9c1abfb4c46216f1710bbfea0eeb65b350dc20bdf4295313c696"
        );
        let around = format!("a comment\r\n{}and more", theirs.replace('\n', "\r\n"));
        let again = PrivateKey::from_pem(around.as_bytes()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        // Version 2, as ring writes it.
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let ours = PrivateKey::from_pkcs8(document.as_ref()).unwrap();
        assert_eq!(ours.public_key(), pair.public_key().as_ref());
    }

    /// Its owner's and its nodes'.
    #[test]
    fn a_key_in_a_file_of_the_originals_is_read() {
        let key = PrivateKey::generate().unwrap();
        let stored = key.to_bytes();
        let pem = format!("{OWNERS_BEGIN}\n{}\n{OWNERS_END}\n", STANDARD.encode(&stored[..]));
        for file in [pem.as_bytes(), &stored[..]] {
            assert_eq!(PrivateKey::from_file(file).unwrap().public_key(), key.public_key());
        }
        let pkcs8 = pem.replace(&STANDARD.encode(&stored[..]), &STANDARD.encode(&key.to_pkcs8()[..]));
        assert_eq!(
            PrivateKey::from_file(pkcs8.as_bytes()).unwrap_err(),
            KeyError::Length(48)
        );
        assert_eq!(PrivateKey::from_file(&[1; 64]).unwrap_err(), KeyError::Mismatch);
        assert_eq!(PrivateKey::from_file(&stored[..63]).unwrap_err(), KeyError::Pem);
    }

    #[test]
    fn what_is_no_key_in_a_file_is_refused() {
        let pem = |base64: &str| format!("{BEGIN}\n{base64}\n{END}\n");
        for (text, error) in [
            (String::new(), KeyError::Pem),
            (BEGIN.into(), KeyError::Pem),
            (pem("!"), KeyError::Pem),
            (pem(""), KeyError::Kind),
            // The head alone, and an X25519 key.
            (pem("MC4CAQAwBQYDK2VwBCIEIA=="), KeyError::Kind),
            (
                pem("MC4CAQAwBQYDK2VuBCIEIHLDa0BGntYkr0vJssgtzQTIYvFtz1aT+k3yG/oc2rdI"),
                KeyError::Kind,
            ),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMC4=\n-----END EC PRIVATE KEY-----".into(),
                KeyError::Pem,
            ),
        ] {
            assert_eq!(PrivateKey::from_pem(text.as_bytes()).unwrap_err(), error, "{text}");
        }
        assert_eq!(PrivateKey::from_pem(b"\xff").unwrap_err(), KeyError::Pem);
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
