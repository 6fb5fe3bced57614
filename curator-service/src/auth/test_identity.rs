//! Authentication by a header, for tests only: no program can enable it.

use http::request::Parts;

use crate::auth::{Authenticator, Member};

/// The header that names the caller: `node <id>`, `user <identity>` or `key <64 hex digits>`.
pub const TEST_CALLER: &str = "test-caller";

/// Accepts the caller that [`TEST_CALLER`] names.
#[derive(Clone, Copy, Debug, Default)]
pub struct TestIdentity;

fn claimed(request: &Parts) -> Option<(&str, &str)> {
    request.headers.get(TEST_CALLER)?.to_str().ok()?.split_once(' ')
}

impl Authenticator for TestIdentity {
    fn authenticate(&self, request: &Parts) -> Result<Member, String> {
        match claimed(request) {
            Some(("node", id)) => Ok(Member::Node {
                id: id.into(),
                public_key: None,
            }),
            Some(("user", identity)) => Ok(Member::User {
                identity: identity.into(),
            }),
            _ => Err("the test-caller header names neither a node nor a user".into()),
        }
    }

    fn self_signed_key(&self, request: &Parts) -> Option<[u8; 32]> {
        let ("key", hex) = claimed(request)? else { return None };
        let bytes: Option<Vec<u8>> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
            .collect();
        bytes?.try_into().ok()
    }
}
