//! Calls of strangers that the leader would refuse.

use std::sync::Arc;

use async_trait::async_trait;
use curator_listener::{CallerCertificates, Forwarders, Tls};

use crate::fixture::{Certificates, Instance, config, in_time, leader_role, undetermined};
use crate::raw::RawClient;

/// Requires a certificate for one method only.
struct Choosy;

#[async_trait]
impl Forwarders for Choosy {
    async fn may_forward(&self, _: &CallerCertificates) -> bool {
        true
    }

    fn refuses(&self, path: &str, shown: &CallerCertificates) -> Option<String> {
        (path == "/curator.echo.v1.Echo/Say" && shown.0.is_empty()).then(|| "show a certificate".into())
    }
}

/// The queue has one place. A stranger's call does not take it, and is not refused because of it.
#[tokio::test]
async fn a_strangers_call_that_needs_a_certificate_does_not_wait() {
    let certificates = Certificates::new();
    let mut config = config();
    config.hold_limit = 1;
    config.tls = Some(Tls {
        forwarders: Arc::new(Choosy),
        ..certificates.tls()
    });
    let instance = Instance::with(undetermined(), config, |service| service);
    let (stranger, known) = (certificates.stranger(), certificates.client());
    let stranger = in_time(RawClient::secured(instance.address, Some(&stranger)))
        .await
        .unwrap();
    let known = in_time(RawClient::secured(instance.address, Some(&known)))
        .await
        .unwrap();
    let (response, mut body) = known.begin("/curator.echo.v1.Echo/Say", &[]).await;
    body.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
    for _ in 0..100 {
        let refused = in_time(stranger.try_call("/curator.echo.v1.Echo/Say")).await.unwrap();
        assert_eq!(refused.code(), Some("16"), "{refused:?}");
    }
    // A call that anybody may make waits, or is refused because the queue is full.
    let waits = in_time(stranger.try_call("/curator.echo.v1.Echo/Count")).await.unwrap();
    assert_eq!(waits.code(), Some("8"), "{waits:?}");
    instance.status.set(leader_role(2).0);
    let answer = crate::raw::Answer::read(in_time(response).await.unwrap()).await;
    assert_eq!(answer.code(), Some("0"), "{answer:?}");
    // The leader refuses it as well.
    let refused = in_time(stranger.try_call("/curator.echo.v1.Echo/Say")).await.unwrap();
    assert_eq!(refused.code(), Some("16"), "{refused:?}");
}
