//! What every instance answers by itself: health and reflection.

use std::time::Duration;

use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::fixture::{Instance, config, follower_role, in_time, leader_role, undetermined};

fn channel(instance: &Instance) -> Channel {
    Channel::from_shared(format!("http://{}", instance.address))
        .unwrap()
        .connect_lazy()
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

fn is(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

const ECHO: &str = "curator.echo.v1.Echo";
const HEALTH: &str = "grpc.health.v1.Health";

#[tokio::test]
async fn an_instance_is_healthy_when_calls_get_to_a_leader() {
    let instance = Instance::start(undetermined());
    let mut client = HealthClient::new(channel(&instance));
    let mut watch = in_time(client.watch(of(""))).await.unwrap().into_inner();
    let mut expect = async |status| {
        assert_eq!(in_time(watch.message()).await.unwrap(), Some(is(status)));
    };
    expect(ServingStatus::NotServing).await;
    for (service, status) in [(HEALTH, ServingStatus::Serving), (ECHO, ServingStatus::NotServing)] {
        assert_eq!(
            in_time(client.check(of(service))).await.unwrap().into_inner(),
            is(status),
            "{service}"
        );
    }
    let (role, _guard) = leader_role(1);
    instance.status.set(role);
    expect(ServingStatus::Serving).await;
    assert_eq!(
        in_time(client.check(of(ECHO))).await.unwrap().into_inner(),
        is(ServingStatus::Serving)
    );

    // A leader that cannot be reached is of no use.
    instance.status.set(follower_role("127.0.0.1:9".parse().unwrap(), 2));
    expect(ServingStatus::NotServing).await;
    let (leader, _guard) = Instance::leading(3);
    instance.status.set(follower_role(leader.address, 3));
    expect(ServingStatus::Serving).await;
    instance.handle.unready();
    expect(ServingStatus::NotServing).await;
    instance.cancel.cancel();
    assert_eq!(in_time(watch.message()).await.unwrap_err().code(), Code::Unavailable);
    in_time(instance.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_leader_that_drains_is_not_healthy() {
    let (leader, _guard) = Instance::leading(1);
    leader.serves(true).await;
    leader.handle.drain().await.expect("it leads");
    leader.serves(false).await;
}

#[tokio::test]
async fn a_service_that_is_not_known_is_not_found() {
    let (leader, _guard) = Instance::leading(1);
    let mut client = HealthClient::new(channel(&leader));
    assert_eq!(
        in_time(client.check(of("no.such"))).await.unwrap_err().code(),
        Code::NotFound
    );
    let mut watch = in_time(client.watch(of("no.such"))).await.unwrap().into_inner();
    assert_eq!(
        in_time(watch.message()).await.unwrap(),
        Some(is(ServingStatus::ServiceUnknown))
    );
    // The protocol wants it to stay open.
    assert!(
        tokio::time::timeout(Duration::from_millis(100), watch.message())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn local_services_and_reflection_are_answered_in_every_role() {
    let (leader, _guard) = Instance::leading(1);
    for role in [undetermined(), leader_role(2).0, follower_role(leader.address, 1)] {
        let instance = Instance::with(role, config(), |service| service);
        let mut client = ServerReflectionClient::new(channel(&instance));
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = in_time(client.server_reflection_info(futures::stream::iter([request])))
            .await
            .unwrap()
            .into_inner();
        let answer = in_time(answers.message()).await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{answer:?}")
        };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        assert_eq!(names, [ECHO, HEALTH, "grpc.reflection.v1.ServerReflection"]);
    }
}
