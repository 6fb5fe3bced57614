//! Runs a handler within the deadline of the call and the term.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::Body;

use super::body::LeaderBody;
use super::in_flight::InFlight;
use crate::call::header_size;
use crate::call::lifetime::CallLimits;
use crate::call::refusal::{self, GRPC, Refusal};
use crate::services::CallService;

/// Serves a call. Returns the request if the leader is stepping down.
///
/// Cancellation: dropping the future drops the handler.
pub(crate) async fn serve<B>(
    service: &CallService,
    in_flight: &Arc<InFlight>,
    request: Request<B>,
    mut limits: CallLimits,
) -> Result<Response<LeaderBody>, Request<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let Some(mut call) = in_flight.enter() else {
        return Err(request);
    };
    match run(service, request, &mut limits).await {
        Ok(response) => {
            call.answered();
            Ok(bounded(response).map(|body| LeaderBody::new(body, limits, Some(call))))
        }
        Err(refusal) => Ok(refusal.response()),
    }
}

/// Serves a call by a local service, which belongs to no term.
pub(crate) async fn serve_local<B>(
    service: &CallService,
    request: Request<B>,
    mut limits: CallLimits,
) -> Response<LeaderBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    match run(service, request, &mut limits).await {
        Ok(response) => bounded(response).map(|body| LeaderBody::new(body, limits, None)),
        Err(refusal) => refusal.response(),
    }
}

/// Truncates a response head that a follower would not accept: it would close the connection with all calls on it.
fn bounded(mut response: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    refusal::corrected(response.headers_mut());
    if header_size::fits(response.headers(), 0) {
        return response;
    }
    let mut bounded = Response::new(tonic::body::Body::empty());
    *bounded.headers_mut() = refusal::shortened(response.headers());
    bounded.headers_mut().insert(CONTENT_TYPE, GRPC);
    bounded
}

async fn run<B>(
    service: &CallService,
    request: Request<B>,
    limits: &mut CallLimits,
) -> Result<Response<tonic::body::Body>, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let mut answering = pin!(service.clone().answer(request.map(tonic::body::Body::new)));
    let response = poll_fn(|cx| match answering.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Ok(response)),
        Poll::Pending => limits.poll(cx).map(Err),
    })
    .await?;
    // The last moment at which this leader may answer for the cluster: its result may be stale afterwards.
    limits.check()?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::service::Routes;

    use super::*;
    use crate::local::Drained;

    #[tokio::test]
    async fn a_call_that_comes_just_after_the_drain_began_is_given_back() {
        let in_flight = InFlight::new(Duration::from_secs(1));
        let before = in_flight.enter().expect("open");
        // The rules were applied before and decided to serve the call.
        assert_eq!(
            in_flight.drain(Duration::ZERO).await,
            Drained {
                unanswered: 1,
                streams: 0
            }
        );
        let request = Request::new(http_body_util::Empty::<Bytes>::new());
        let served = serve(
            &CallService::new(Routes::default()),
            &in_flight,
            request,
            CallLimits::new(None, None),
        )
        .await;
        assert!(served.is_err(), "it can be dispatched again");
        drop(before);
        assert_eq!(in_flight.drain(Duration::from_secs(1)).await.unanswered, 0);
    }
}
