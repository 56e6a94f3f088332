//! Layers of tower-http are middlewares as they are, also those that change body types, and several in one chain.

use axum::body::Body;
use futures_util::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use portcullis_middleware::layer::{Running, fold, hop};
use portcullis_middleware::prelude::*;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;

/// Compression around a limit of 1000 bytes, around a service that answers what it was sent.
fn chain() -> Next {
    let echo = hop(|request: Request| {
        Running::boxed(async {
            match request.into_body().collect().await {
                Ok(body) => {
                    let mut response = Response::new(Body::from(body.to_bytes()));
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                    response
                }
                Err(_) => {
                    let mut response = Response::default();
                    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                    response
                }
            }
        })
    });
    let layers = [RouteLayer::tower(CompressionLayer::new()), RouteLayer::tower(RequestBodyLimitLayer::new(1000))];
    fold(layers.iter(), echo)
}

fn post(body: Body) -> Request {
    let mut request = Request::new(body);
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    request
}

#[tokio::test]
async fn compression_and_body_limit_run_in_one_chain() {
    let response = chain().run(post(Body::from("abcd".repeat(200)))).await;
    assert_eq!(
        (response.status(), &response.headers()[CONTENT_ENCODING]),
        (StatusCode::OK, &HeaderValue::from_static("gzip"))
    );
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(body.starts_with(b"\x1f\x8b") && body.len() < 200, "{} bytes", body.len());
}

#[tokio::test]
async fn the_limit_holds_for_announced_and_for_streamed_bodies() {
    let mut announced = post(Body::from("x".repeat(1001)));
    announced.headers_mut().insert(CONTENT_LENGTH, 1001.into());
    assert_eq!(chain().run(announced).await.status(), StatusCode::PAYLOAD_TOO_LARGE);

    let chunks = stream::iter((0..11).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    assert_eq!(chain().run(post(Body::from_stream(chunks))).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
