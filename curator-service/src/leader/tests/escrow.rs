//! Which callers get the owner's certificate.

use curator_identity::public_key_of;
use curator_proto::management_api::escrow_response::proof_request::Kind;
use curator_proto::management_api::{EscrowRequest, EscrowResponse, escrow_request};
use futures::StreamExt;
use tonic::{Code, Status};

use crate::leader::tests::stage::{OWNER, Stage};
use crate::state::keys::INITIAL_OWNER;

fn request(name: &str, key: &[u8]) -> Option<EscrowRequest> {
    Some(EscrowRequest {
        parameters: Some(escrow_request::Parameters {
            requested_identity_name: name.into(),
            public_key: key.to_vec(),
        }),
        proofs: None,
    })
}

/// All responses, or the error.
async fn escrow(
    stage: &Stage,
    key: Option<[u8; 32]>,
    first: Option<EscrowRequest>,
) -> Result<Vec<Result<EscrowResponse, Code>>, Status> {
    let answers = stage.leader.escrow(key, first).await?;
    Ok(answers
        .map(|answer| answer.map_err(|status| status.code()))
        .collect()
        .await)
}

fn kinds(of: &[curator_proto::management_api::escrow_response::ProofRequest]) -> Vec<Kind> {
    of.iter().map(|proof| proof.kind()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_owner_gets_its_certificate_and_the_same_again() {
    let stage = Stage::new().await;
    let first = escrow(&stage, Some(OWNER), request("owner", &OWNER)).await.unwrap();
    let [Ok(answer)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(kinds(&answer.fulfilled), [Kind::RefreshCertificate]);
    assert!(answer.needed.is_empty());
    assert_eq!(public_key_of(&answer.emitted_certificate), Some(OWNER));
    let stored = stage.value("/cluster-pki/issued/owner-cert.der").await.unwrap();
    assert_eq!(stored, answer.emitted_certificate);
    let again = escrow(&stage, Some(OWNER), request("owner", &OWNER)).await.unwrap();
    assert_eq!(again, first);
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_one_is_asked_for() {
    let stage = Stage::new().await;
    let answers = escrow(&stage, None, request("owner", &OWNER)).await.unwrap();
    let [Ok(needed), Err(Code::Unauthenticated)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(kinds(&needed.needed), [Kind::RefreshCertificate]);
    assert!(needed.fulfilled.is_empty() && needed.emitted_certificate.is_empty());
}

/// The checks run in order: of two errors, the first is reported.
#[tokio::test(start_paused = true)]
async fn the_first_thing_wrong_is_told() {
    let stage = Stage::new().await;
    let other = [98; 32];
    let before = stage.all().await;
    for (key, first, code) in [
        (None, None, Code::InvalidArgument),
        (None, Some(EscrowRequest::default()), Code::InvalidArgument),
        (None, request("else", &[1; 31]), Code::Unimplemented),
        (None, request("owner", &[1; 31]), Code::InvalidArgument),
        (Some(other), request("owner", &OWNER), Code::Unimplemented),
        (Some(OWNER), request("owner", &other), Code::Unimplemented),
        (Some(other), request("owner", &other), Code::PermissionDenied),
    ] {
        let refused = escrow(&stage, key, first.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{first:?}: {refused}");
    }
    // Without an owner every key is refused; the owner's key is required before it is compared.
    for owner in [&b"\xff"[..], b"", &[0x0a, 2, 1, 1]] {
        let revision = stage.put(INITIAL_OWNER, owner.to_vec()).await;
        stage.followed(INITIAL_OWNER, revision).await;
        for key in [OWNER, other] {
            let refused = escrow(&stage, Some(key), request("owner", &key)).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{owner:?}: {refused}");
        }
    }
    stage.delete(INITIAL_OWNER).await;
    while stage.leader.state.view().get(INITIAL_OWNER.as_bytes()).is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let refused = escrow(&stage, Some(OWNER), request("owner", &OWNER)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let after: Vec<_> = stage.all().await;
    assert!(
        before.iter().filter(|kv| kv.key != INITIAL_OWNER).eq(after.iter()),
        "nothing was issued"
    );
}

/// There is only one owner certificate.
#[tokio::test(start_paused = true)]
async fn a_certificate_for_another_key_stays() {
    let stage = Stage::new().await;
    let node = stage
        .value(&format!(
            "/cluster-pki/issued/node-{}-cert.der",
            crate::leader::tests::stage::id(1)
        ))
        .await;
    let revision = stage.put("/cluster-pki/issued/owner-cert.der", node.unwrap()).await;
    stage.followed("/cluster-pki/issued/owner-cert.der", revision).await;
    let before = stage.all().await;
    let refused = escrow(&stage, Some(OWNER), request("owner", &OWNER)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(stage.all().await, before);
}
