//! One call is one trace: from the instance that was called through the leader to etcd, in the logs and at a collector.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use curator_harness::curator::binary_from_env;
use curator_harness::process::run;
use curator_harness::{CuratorProcess, Event, Mark};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::{Node as OfNode, Pair};
use curator_proto::management_api::{UpdateNodeLabelsRequest, UpdateNodeLabelsResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::cluster::{TlsCluster, Who, bounded, hex};
use crate::test_cluster::SOON;

/// What a caller says of its trace.
pub(super) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

pub(super) fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{CALLER}-0{}", u8::from(sampled))
}

/// The owner puts a label on a node, through an instance, and says this of its trace.
pub(super) fn label(
    cast: &TlsCluster,
    instance: usize,
    value: &str,
    traceparent: &[u8],
) -> Result<Response<UpdateNodeLabelsResponse>, Status> {
    let mut request = bounded(UpdateNodeLabelsRequest {
        upsert: vec![Pair {
            key: "traced".into(),
            value: value.into(),
        }],
        delete: Vec::new(),
        node: Some(OfNode::Id(cast.nodes[0].id.clone())),
    });
    let mut headers = std::mem::take(request.metadata_mut()).into_headers();
    headers.insert("traceparent", http::HeaderValue::from_bytes(traceparent).unwrap());
    *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    request
        .metadata_mut()
        .insert("tracestate", MetadataValue::from_static("vendor=opaque"));
    let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(instance)));
    cast.runtime.block_on(management.update_node_labels(request))
}

/// What an instance has logged in a trace.
pub(super) fn logged_in(curator: &CuratorProcess, trace: &str) -> Vec<Event> {
    let within = |event: &Event| {
        let spans = event.fields["spans"].as_array().into_iter().flatten();
        spans.into_iter().any(|span| span["trace_id"] == trace)
    };
    let events = curator.events_since(Mark::START);
    events.into_iter().filter(within).collect()
}

/// A collector, as far as one is needed.
#[derive(Clone, Default)]
struct Collector {
    /// The spans, each with the node that sent it.
    spans: Arc<Mutex<Vec<(String, Span)>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let about: HashMap<_, _> = of_resource
                .resource
                .unwrap_or_default()
                .attributes
                .into_iter()
                .filter_map(|pair| match pair.value?.value? {
                    Value::StringValue(text) => Some((pair.key, text)),
                    _ => None,
                })
                .collect();
            assert_eq!(about["service.name"], "curator");
            let node = &about["service.instance.id"];
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let mut kept = self.spans.lock().unwrap();
            kept.extend(spans.map(|span| (node.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens until the runtime ends.
    fn start(&self, runtime: &tokio::runtime::Runtime) -> SocketAddr {
        let within = runtime.enter();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        drop(within);
        address
    }

    fn of(&self, trace: &str) -> Vec<(String, Span)> {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .filter(|(_, span)| hex(&span.trace_id) == trace)
            .cloned()
            .collect()
    }

    fn all(&self) -> usize {
        self.spans.lock().unwrap().len()
    }
}

#[test]
fn a_collector_gets_one_trace_of_a_call_through_a_follower() {
    let mut help = Command::new(binary_from_env().unwrap());
    help.args(["serve", "--help"]);
    if !run(help, SOON).unwrap().stdout.contains("--otlp-endpoint") {
        println!("SKIPPED: traces at a collector, for the curator under test was built without the feature `otlp`");
        return;
    }
    let collector = Collector::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let endpoint = format!("http://{}", collector.start(&runtime));
    let cast = TlsCluster::new("spans", |mut options| {
        options.env.push(("CURATOR_OTLP_ENDPOINT".into(), endpoint.clone()));
        options
    });
    let [leader, follower] = cast.leader_and_follower();
    label(&cast, follower, "a", traceparent(true).as_bytes()).unwrap();
    let spans = curator_harness::wait_until("the spans of follower and leader", SOON, || {
        let spans = collector.of(TRACE);
        let calls = spans.iter().filter(|(_, span)| span.name == "call").count();
        (calls == 2 && spans.iter().any(|(_, span)| span.name == "transaction")).then_some(spans)
    })
    .unwrap();
    let find = |name: &str, node: usize| {
        let found = spans
            .iter()
            .find(|(from, span)| span.name == name && *from == cast.nodes[node].id);
        let names: Vec<_> = spans.iter().map(|(from, span)| (from, &span.name)).collect();
        found
            .map(|(_, span)| span)
            .unwrap_or_else(|| panic!("{name} of {node}: {names:?}"))
    };
    let (forwarded, led) = (find("call", follower), find("call", leader));
    assert_eq!(hex(&forwarded.parent_span_id), CALLER);
    assert_eq!(led.parent_span_id, forwarded.span_id);
    // What is in between is in the same process.
    let mut at = find("transaction", leader);
    for _ in 0..8 {
        if at.span_id == led.span_id {
            break;
        }
        let parent = spans.iter().find(|(_, span)| span.span_id == at.parent_span_id);
        at = &parent.unwrap_or_else(|| panic!("the parent of {at:?}")).1;
    }
    assert_eq!(at.span_id, led.span_id, "the transaction is part of the leader's call");
    assert!(
        spans
            .iter()
            .all(|(_, span)| span.end_time_unix_nano >= span.start_time_unix_nano)
    );
    assert!(
        cast.stage.curators.iter().all(|curator| curator.role().is_some()),
        "they go on"
    );

    // Whose caller does not want it recorded is not sent, and the last are sent before the end.
    let unsampled = traceparent(false).replace(TRACE, &TRACE.replace('4', "5"));
    label(&cast, follower, "b", unsampled.as_bytes()).unwrap();
    let last = traceparent(true).replace(TRACE, &TRACE.replace('4', "6"));
    label(&cast, follower, "c", last.as_bytes()).unwrap();
    let before = collector.all();
    for curator in &cast.stage.curators {
        curator.terminate().unwrap();
    }
    for curator in &cast.stage.curators {
        assert!(curator.wait_exit(SOON).unwrap().success());
    }
    assert!(collector.all() >= before);
    let calls = |trace: &str| {
        let spans = collector.of(trace);
        spans.iter().filter(|(_, span)| span.name == "call").count()
    };
    assert_eq!(calls(&TRACE.replace('4', "6")), 2);
    assert_eq!(collector.of(&TRACE.replace('4', "5")), []);
    drop(cast);
    runtime.shutdown_background();
}
