//! Compresses answers for clients that take it.
//!
//! ```toml
//! [middleware.small]
//! type     = "compress"
//! min_size = "1KiB"                               # smaller answers are left alone
//! types    = ["text/*", "application/json"]       # default: what is text in some form
//! ```
//!
//! zstd, brotli or gzip, whichever the client prefers. Left alone are answers that are encoded already, partial, or
//! marked `no-transform`, images, gRPC and event streams (which must not wait in an encoder). An answer that could have
//! been compressed says `Vary: accept-encoding`; a compressed one has no strong `ETag`, because its bytes are others.
//! It refuses nobody, and nothing is added to the request.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version};
use tower::Layer;
use tower::layer::layer_fn;
use tower::util::MapResponse;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use crate::prelude::*;

/// Compresses answers for clients that take it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compress {
    /// Answers that are known to be smaller are left alone.
    #[serde(default = "default_min_size")]
    min_size: Size,
    /// Media types that are compressed: `application/json`, `text/*`, `*/*`.
    #[serde(default = "default_types")]
    types: Vec<String>,
}

fn default_min_size() -> Size {
    Size::from_kib(1)
}

fn default_types() -> Vec<String> {
    const TYPES: [&str; 13] = [
        "text/*",
        "application/json",
        "application/*+json",
        "application/x-ndjson",
        "application/xml",
        "application/*+xml",
        "application/javascript",
        "application/graphql",
        "application/wasm",
        "application/vnd.ms-fontobject",
        "font/ttf",
        "font/otf",
        "image/svg+xml",
    ];
    TYPES.map(str::to_owned).to_vec()
}

impl Plugin for Compress {
    const NAME: &'static str = "compress";
    const EXAMPLE: &'static str = r#"min_size = "1KiB"
types = ["text/*", "application/json"]"#;

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        if self.types.is_empty() {
            return Err(BuildError::at("types", "is empty, so nothing would be compressed"));
        }
        let (mut types, mut faults) = (Vec::new(), BuildError::default());
        for (index, text) in self.types.iter().enumerate() {
            match MediaType::parse(text) {
                Ok(media_type) => types.push(media_type),
                Err(fault) => faults.add(("types", index), fault),
            }
        }
        faults.into_result()?;
        let types: Arc<[MediaType]> = types.into();
        let worthwhile = move |status: StatusCode, _: Version, headers: &HeaderMap, extensions: &Extensions| {
            has_whole_body(status, extensions) && may_transform(headers) && is_listed(headers, &types)
        };
        let compression = CompressionLayer::new().compress_when(SizeAbove::new(self.min_size.bytes()).and(worthwhile));
        let layer = RouteLayer::tower(layer_fn(move |next: Next| {
            MapResponse::new(compression.layer(MapResponse::new(next, mark_encoded)), weaken_etag)
        }));
        // A compressed answer to HEAD would be the encoder's idea of an empty body.
        Ok(layer.only_if(|request| request.method() != Method::HEAD && takes_something(request.headers())))
    }
}

/// Whether the client can be satisfied at all: the layer makes a 406 of the answer if not, after the service has acted.
fn takes_something(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let members = lines.flat_map(|line| line.split(',')).filter_map(|member| {
        let (coding, weight) = member.split_once(';').unwrap_or((member, "q=1"));
        let weight = weight.trim().trim_start_matches(['q', 'Q', '=', ' ']);
        Some((coding.trim(), weight.parse::<f32>().ok()? > 0.0))
    });
    let is = |coding: &str, names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(coding));
    let mut plain_is_refused = false;
    for (coding, taken) in members {
        if taken && is(coding, &["*", "identity", "gzip", "x-gzip", "br", "zstd"]) {
            return true;
        }
        plain_is_refused |= !taken && is(coding, &["*", "identity"]);
    }
    !plain_is_refused
}

/// Not for what has no body or a part of one, nor for a refusal, whose body is written when it leaves the gateway.
fn has_whole_body(status: StatusCode, extensions: &Extensions) -> bool {
    let partial =
        [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED];
    !status.is_informational() && !partial.contains(&status) && extensions.get::<Rejection>().is_none()
}

/// RFC 9110 §7.7: `no-transform` forbids intermediaries to change the content.
fn may_transform(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    !lines.flat_map(|line| line.split(',')).any(|directive| directive.trim().eq_ignore_ascii_case("no-transform"))
}

fn is_listed(headers: &HeaderMap, types: &[MediaType]) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let never = content_type == "text/event-stream"
        || content_type.starts_with("application/grpc")
        || (content_type.starts_with("image/") && content_type != "image/svg+xml");
    !never && types.iter().any(|listed| listed.matches(&content_type))
}

/// On an answer that came encoded, so that [`weaken_etag`] knows whose encoding it is.
#[derive(Clone)]
struct CameEncoded;

fn mark_encoded(mut response: Response) -> Response {
    if response.headers().contains_key(CONTENT_ENCODING) {
        response.extensions_mut().insert(CameEncoded);
    }
    response
}

/// RFC 9110 §8.8.3.3: representations that differ in encoding must not share a strong tag.
fn weaken_etag<B>(mut response: http::Response<B>) -> http::Response<B> {
    let came_encoded = response.extensions_mut().remove::<CameEncoded>().is_some();
    if came_encoded || !response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    if let Some(etag) = response.headers().get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")) {
        match HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()) {
            Ok(weak) => response.headers_mut().insert(ETAG, weak),
            Err(_) => response.headers_mut().remove(ETAG),
        };
    }
    response
}

/// A media type, perhaps with a `*` for some of its characters.
#[derive(Debug)]
struct MediaType {
    before: String,
    /// What follows the `*`, if there is one.
    after: Option<String>,
}

impl MediaType {
    fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let of_a_type = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+*".contains(c);
        match lower.split_once('/') {
            Some((kind, subtype))
                if !kind.is_empty() && !subtype.is_empty() && kind.chars().chain(subtype.chars()).all(of_a_type) => {}
            _ => return Err(format!("has `{text}`, which is not a media type such as `application/json` or `text/*`")),
        }
        if lower == "*/*" {
            return Ok(Self { before: String::new(), after: Some(String::new()) });
        }
        match lower.split_once('*') {
            None => Ok(Self { before: lower, after: None }),
            Some((before, after)) if !after.contains('*') => {
                Ok(Self { before: before.to_owned(), after: Some(after.to_owned()) })
            }
            Some(_) => Err(format!("has `{text}`, where only one `*` can stand")),
        }
    }

    fn matches(&self, content_type: &str) -> bool {
        match &self.after {
            None => content_type == self.before,
            Some(after) => content_type.strip_prefix(&self.before).is_some_and(|rest| rest.ends_with(after.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::IntoResponse;

    use super::*;
    use crate::testing::{self, Answer, Chain, build, chain, request};

    #[test]
    fn it_keeps_the_promises_of_every_plugin() {
        testing::conformance::<Compress>();
    }

    /// A service that answers 4000 bytes with these headers.
    fn service(toml: &str, lines: &'static [(&'static str, &'static str)]) -> Chain {
        chain::<Compress>(toml).answer(move |_| async move {
            let mut response = Response::new(Body::from("abcd".repeat(1000)));
            for (name, value) in lines {
                response.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            response
        })
    }

    async fn ask(app: &Chain, accepts: &str) -> Answer {
        let mut request = request("GET", "/");
        request.headers_mut().insert(ACCEPT_ENCODING, accepts.parse().expect("a value"));
        app.send(request).await.expect_status(200)
    }

    #[tokio::test]
    async fn the_client_chooses_the_encoding() {
        let app = service("", &[("content-type", "text/html; charset=utf-8"), ("content-length", "4000")]);
        for (accepts, encoding) in
            [("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("gzip, br;q=0.9", "gzip"), ("*", "zstd")]
        {
            let answer = ask(&app, accepts).await.expect_header("content-encoding", encoding);
            let answer = answer.expect_header("vary", "accept-encoding").expect_no_header("content-length");
            assert!(answer.body.len() < 1000, "{accepts}: {}", answer.body.len());
        }
        for accepts in ["", "identity", "deflate", "gzip;q=0"] {
            let answer = ask(&app, accepts).await.expect_no_header("content-encoding");
            assert_eq!(answer.expect_header("vary", "accept-encoding").body.len(), 4000);
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_we_have_gets_the_answer_as_it_is() {
        let app = service("", &[("content-type", "text/html")]);
        for accepts in ["identity;q=0", "*;q=0", "deflate, identity;q=0.0", "gzip;q=0, *;q=0"] {
            assert_eq!(ask(&app, accepts).await.expect_no_header("content-encoding").body.len(), 4000, "{accepts}");
        }
        ask(&app, "gzip, identity;q=0").await.expect_header("content-encoding", "gzip");
        ask(&app, "gzip, *;q=0").await.expect_header("content-encoding", "gzip");
    }

    #[tokio::test]
    async fn what_must_not_or_need_not_be_compressed_is_left_alone() {
        let cases: [&'static [(&'static str, &'static str)]; 10] = [
            &[("content-type", "text/html"), ("content-encoding", "gzip")],
            &[("content-type", "text/html"), ("cache-control", "public, No-Transform")],
            &[("content-type", "text/html"), ("content-range", "bytes 0-3999/9000")],
            &[("content-type", "text/event-stream")],
            &[("content-type", "application/grpc")],
            &[("content-type", "application/grpc-web+proto")],
            &[("content-type", "image/png")],
            &[("content-type", "video/mp4")],
            &[("content-type", "application/jsonx")],
            &[],
        ];
        for lines in cases {
            let answer = ask(&service("", lines), "gzip").await;
            assert_eq!(answer.body.len(), 4000, "{lines:?}");
        }
        for never in ["text/event-stream", "image/png", "application/grpc"] {
            let lines = Box::leak(Box::new([("content-type", never)]));
            assert_eq!(ask(&service("types = [\"*/*\"]", lines), "gzip").await.body.len(), 4000, "{never}");
        }
    }

    #[tokio::test]
    async fn small_answers_and_refusals_are_left_alone() {
        let app = service(r#"min_size = "4001B""#, &[("content-type", "text/html")]);
        ask(&app, "gzip").await.expect_no_header("content-encoding");

        let app = chain::<Compress>("min_size = \"0B\"\ntypes = [\"*/*\"]")
            .answer(|_| async { Rejection::new(Cause::NoInstance).into_response() });
        let mut request = request("GET", "/");
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let answer = app.send(request).await.expect_status(503).expect_no_header("content-encoding");
        assert!(answer.body.starts_with(b"{"));
    }

    #[tokio::test]
    async fn a_strong_tag_becomes_weak_only_if_we_compressed() {
        let app = service("", &[("content-type", "application/problem+json"), ("etag", "\"v1\"")]);
        ask(&app, "gzip").await.expect_header("etag", "W/\"v1\"");
        ask(&app, "identity").await.expect_header("etag", "\"v1\"");
        let app = service("", &[("content-type", "text/html"), ("etag", "\"v1\""), ("content-encoding", "br")]);
        ask(&app, "br").await.expect_header("etag", "\"v1\"").expect_header("content-encoding", "br");
    }

    #[tokio::test]
    async fn listed_types_are_the_only_ones() {
        let app =
            service(r#"types = ["application/*+json", "Text/CSV"]"#, &[("content-type", "Text/csv;header=present")]);
        ask(&app, "gzip").await.expect_header("content-encoding", "gzip");
        let app = service(r#"types = ["application/*+json"]"#, &[("content-type", "application/json")]);
        ask(&app, "gzip").await.expect_no_header("content-encoding");
    }

    #[test]
    fn settings_that_compress_nothing_are_refused() {
        for (toml, fault) in [
            ("types = []", "is empty"),
            ("types = [\"json\"]", "not a media type"),
            ("types = [\"text/\"]", "not a media type"),
            ("types = [\"a*/b*\"]", "only one `*`"),
            ("min_size = 1024", "unit"),
        ] {
            let faults = build::<Compress>(toml).map(drop).expect_err(toml);
            assert!(faults.contains(fault), "{toml}: {faults}");
        }
    }
}
