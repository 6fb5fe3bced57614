//! A limit on the requests of callers without a certificate of the cluster.

use http_body_util::{BodyExt, Limited};
use tonic::Status;
use tonic::body::Body;

/// The most bytes that are read of such a request. A registration has a few hundred, with all labels a few thousand.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The request, ended with `RESOURCE_EXHAUSTED` once it is too long.
pub(super) fn limited(body: Body) -> Body {
    Body::new(
        Limited::new(body, MAX_REQUEST_BYTES).map_err(|error| match error.downcast::<Status>() {
            Ok(status) => *status,
            Err(_) => Status::resource_exhausted(format!(
                "request exceeds {MAX_REQUEST_BYTES} bytes, the limit for callers without a cluster certificate"
            )),
        }),
    )
}
