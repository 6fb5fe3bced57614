//! Limits the size of requests from callers without a cluster certificate.

use http_body_util::{BodyExt, Limited};
use tonic::Status;
use tonic::body::Body;

/// Maximum size of such a request, in bytes. A registration has a few hundred bytes, with all labels a few thousand.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Wraps the body so that it fails with `RESOURCE_EXHAUSTED` once the limit is exceeded.
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
