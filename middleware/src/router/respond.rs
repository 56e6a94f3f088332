//! `respond`: an answer that the gateway gives itself.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use portcullis_config::Respond;

use super::Fault;
use crate::layer::{Hop, Running};
use crate::{Next, Request, Response};

/// The end of a chain that answers as the file says.
///
/// `HEAD` gets what `GET` would get, without the body; a status that has no body is sent without one.
pub fn respond(respond: &Respond) -> Result<Next, Fault> {
    let status = StatusCode::from_u16(*respond.status).map_err(|_| Fault {
        span: respond.status.span.clone(),
        sentence: format!("`{}` is not a status", respond.status),
    })?;
    // RFC 9110 §6.4.1
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless { Bytes::new() } else { Bytes::from(respond.body.clone()) };

    let mut headers = HeaderMap::new();
    for (name, values) in &respond.headers {
        for value in &values.0 {
            headers.append(http::HeaderName::clone(name), http::HeaderValue::clone(value));
        }
    }
    // The framing is ours to say: a length that does not fit the body breaks the connection.
    headers.remove(TRANSFER_ENCODING);
    headers.remove(CONTENT_LENGTH);
    // RFC 9110 §8.6: none on 204. On 304 it would speak of a body that is elsewhere.
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Ok(Next::new(Responding { status, headers, body }))
}

struct Responding {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Hop for Responding {
    fn run(&self, request: Request) -> Running {
        let body = if request.method() == Method::HEAD { Body::empty() } else { Body::from(self.body.clone()) };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        Running::ready(response)
    }
}

#[cfg(test)]
mod tests {
    use crate::Cause;
    use crate::router::testing::gateway;
    use crate::testing::request;

    #[tokio::test]
    async fn it_answers_with_the_length_of_its_own_body_and_head_gets_no_body() {
        let app = gateway(
            r#"[[route]]
               match = { path = "/healthz" }
               respond = { status = 201, headers = { content-type = "text/plain", x-a = ["1", "2"] }, body = "ok\n" }"#,
        );
        let answer = app.get("/healthz").await.expect_status(201).expect_header("content-type", "text/plain");
        let answer = answer.expect_header("content-length", "3").expect_body("ok\n");
        assert_eq!(answer.headers.get_all("x-a").iter().count(), 2);
        app.send(request("HEAD", "/healthz"))
            .await
            .expect_status(201)
            .expect_header("content-length", "3")
            .expect_body("");
        app.get("/").await.expect_status(404).expect_cause(Cause::NoRoute);
    }

    #[tokio::test]
    async fn a_status_without_a_body_says_no_length() {
        let app = gateway("[[route]]\nrespond = { status = 204 }");
        app.get("/").await.expect_status(204).expect_no_header("content-length").expect_body("");
    }
}
