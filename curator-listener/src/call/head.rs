//! Checks on the head of a request: whether it is a gRPC call, and its size. No I/O.

use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};

/// The content type of gRPC. A suffix names the message encoding.
const GRPC: &[u8] = b"application/grpc";

/// The HTTP status for a request that is not a gRPC call. The check also prevents web pages from sending calls
/// through a browser.
pub(crate) fn no_call<B>(request: &Request<B>) -> Option<StatusCode> {
    if request.method() != Method::POST {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    let said = request
        .headers()
        .get(CONTENT_TYPE)
        .map(http::HeaderValue::as_bytes)
        .unwrap_or_default();
    let is_grpc = said.len() >= GRPC.len()
        && said[..GRPC.len()].eq_ignore_ascii_case(GRPC)
        && matches!(said.get(GRPC.len()), None | Some(b'+' | b';'));
    (!is_grpc).then_some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// The size of a request head as HTTP/2 counts it. Source: RFC 9113, section 6.5.2.
pub(crate) fn length(head: &http::request::Parts) -> usize {
    const FIELD: usize = 32;
    let fields: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum();
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    fields + path + authority + 4 * FIELD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(method: Method, content_type: Option<&str>) -> Option<StatusCode> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        if let Some(said) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, said.parse().unwrap());
        }
        no_call(&request)
    }

    #[test]
    fn only_what_says_that_it_is_grpc_is_a_call() {
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=y",
            "Application/gRPC",
        ] {
            assert_eq!(said(Method::POST, Some(good)), None, "{good}");
        }
        for bad in [
            None,
            Some("text/plain"),
            Some("application/grpc-web"),
            Some("application/json"),
            Some(""),
        ] {
            assert_eq!(
                said(Method::POST, bad),
                Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
                "{bad:?}"
            );
        }
        for method in [Method::GET, Method::PUT, Method::CONNECT, Method::OPTIONS] {
            assert_eq!(
                said(method, Some("application/grpc")),
                Some(StatusCode::METHOD_NOT_ALLOWED)
            );
        }
    }
}
