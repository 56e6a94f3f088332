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
//! been compressed says `Vary: accept-encoding`; a compressed one has no strong `ETag` and none of the digests that it came
//! with (`Repr-Digest`, `Content-Digest`, `Digest`, `Content-MD5`), because its bytes are others. An answer to `HEAD` has the
//! headers that one to `GET` would have. It refuses nobody, also not who takes neither a coding that is known here nor the
//! plain form (`identity;q=0`), and gets the latter; and nothing is added to the request.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use tower::util::{MapResponse, ServiceExt};
use tower::{BoxError, Layer};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use crate::prelude::*;

/// Compresses answers for clients that take it. Who takes neither zstd, brotli, gzip nor the plain form (`identity;q=0`) gets
/// the latter all the same.
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
        Ok(RouteLayer::around(Encoder(compression)).only_if(|request| takes_something(request.headers())))
    }
}

/// The middleware: tower-http's encoder, and what it leaves undone.
struct Encoder<P>(CompressionLayer<P>);

impl<P: Predicate + Send + Sync + 'static> Around for Encoder<P> {
    async fn handle(&self, request: Request, next: Next) -> Response {
        let is_head = request.method() == Method::HEAD;
        let next = MapResponse::new(next, move |response| before(response, is_head));
        let Ok(response) = self.0.layer(next).oneshot(request).await;
        after(response)
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

/// On an answer that came encoded, so that it is known [afterwards](after) whose encoding it is.
#[derive(Clone)]
struct CameEncoded;

/// On an answer to `HEAD`.
#[derive(Clone)]
struct OnlyHead;

fn before(mut response: Response, is_head: bool) -> Response {
    if response.headers().contains_key(CONTENT_ENCODING) {
        response.extensions_mut().insert(CameEncoded);
    }
    if is_head && response.body().is_end_stream() {
        // RFC 9110 §9.3.2: what it says of the body counts, and not that there is none here.
        response.extensions_mut().insert(OnlyHead);
        *response.body_mut() = Body::from_stream(futures_util::stream::empty::<Result<Bytes, BoxError>>());
    }
    response
}

fn after<B>(mut response: http::Response<B>) -> Response
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let came_encoded = response.extensions_mut().remove::<CameEncoded>().is_some();
    let only_head = response.extensions_mut().remove::<OnlyHead>().is_some();
    let encoded = !came_encoded && response.headers().contains_key(CONTENT_ENCODING);
    if encoded {
        describe_anew(response.headers_mut());
    }
    match (only_head, encoded) {
        (true, _) => response.map(|_| Body::empty()),
        (false, true) => response.map(|body| Body::new(body.map_frame(trailers_anew))),
        (false, false) => response.map(Body::new),
    }
}

/// What is true of the bytes that came and not of those that go: RFC 9530 (also of the whole representation, whose
/// encoding is a part of it), RFC 3230, RFC 1864.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Removes from headers or trailers what was said of the body before it was encoded.
fn describe_anew(headers: &mut HeaderMap) {
    for name in &DIGESTS {
        headers.remove(name);
    }
    // RFC 9110 §8.8.3.3: representations that differ in encoding must not share a strong tag.
    if let Some(etag) = headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")) {
        match HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()) {
            Ok(weak) => headers.insert(ETAG, weak),
            Err(_) => headers.remove(ETAG),
        };
    }
}

fn trailers_anew(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        describe_anew(trailers);
    }
    frame
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
    use axum::response::IntoResponse;
    use http_body_util::StreamBody;

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

    const DIGESTED: &[(&str, &str)] = &[
        ("content-type", "text/html"),
        ("content-length", "4000"),
        ("etag", "\"v1\""),
        ("content-md5", "Q2hlY2sgSW50ZWdyaXR5IQ=="),
        ("digest", "sha-256=:x:"),
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:x:"),
    ];

    /// Their digests were those of other bytes.
    #[tokio::test]
    async fn no_digest_of_what_was_encoded_goes_on() {
        let app = service("", DIGESTED);
        let (coded, plain) = (ask(&app, "gzip").await, ask(&app, "identity").await);
        for name in DIGESTS {
            assert!(!coded.headers.contains_key(&name) && plain.headers.contains_key(&name), "{name}");
        }

        let app = chain::<Compress>("").answer(|_| async {
            let trailers: HeaderMap =
                DIGESTED.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let frames =
                [Ok::<_, BoxError>(Frame::data(Bytes::from("abcd".repeat(1000)))), Ok(Frame::trailers(trailers))];
            let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            response
        });
        let trailers = ask(&app, "gzip").await.trailers.expect("there are some");
        assert_eq!(trailers.get(ETAG).unwrap(), "W/\"v1\"");
        assert!(trailers.contains_key(CONTENT_TYPE) && !DIGESTS.iter().any(|name| trailers.contains_key(name)));
        assert!(ask(&app, "identity").await.trailers.unwrap().contains_key("digest"));
    }

    /// `HEAD` was passed by: no `Vary`, a strong tag, and the length of what a `GET` never got.
    #[tokio::test]
    async fn an_answer_to_head_has_the_headers_that_one_to_get_has() {
        let bodiless = |toml: &str, lines: &'static [(&'static str, &'static str)]| {
            chain::<Compress>(toml).answer(move |request| async move {
                let is_head = request.method() == Method::HEAD;
                let mut response = Response::new(if is_head { Body::empty() } else { "abcd".repeat(1000).into() });
                for (name, value) in lines {
                    response.headers_mut().append(*name, HeaderValue::from_static(value));
                }
                response
            })
        };
        let no_length = &DIGESTED[..1];
        let encoded = &[("content-type", "text/html"), ("content-encoding", "br"), ("etag", "\"v1\"")];
        let other = &[("content-type", "image/png"), ("content-length", "4000")];
        for (toml, lines) in [
            ("", DIGESTED),
            ("min_size = \"4001B\"", DIGESTED),
            ("", no_length),
            ("", encoded),
            ("", other),
            ("types = [\"a/b\"]", DIGESTED),
        ] {
            let app = bodiless(toml, lines);
            for accepts in ["gzip", "br", "identity", "gzip;q=0, identity;q=0", ""] {
                let mut head = request("HEAD", "/");
                head.headers_mut().insert(ACCEPT_ENCODING, accepts.parse().expect("a value"));
                let (head, get) = (app.send(head).await, ask(&app, accepts).await);
                assert_eq!(head.headers, get.headers, "{toml} {lines:?} {accepts}");
                assert!(head.body.is_empty() && head.status == get.status);
            }
        }
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
