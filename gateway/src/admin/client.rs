//! Asks an admin listener: for `portcullis health`, `portcullis explain` and the demo.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// More than any answer of the admin API.
const LARGEST_ANSWER: usize = 64 << 20;

/// Why there is no answer.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// `GET`, from a thread without a runtime.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<(u16, String), Error> {
    wait(limit, send(address, "GET", path, &[], String::new()))
}

/// `POST` of JSON, from a thread without a runtime.
pub fn ask(address: SocketAddr, path: &str, json: String, limit: Duration) -> Result<(u16, String), Error> {
    wait(limit, post(address, path, json))
}

fn wait(limit: Duration, answer: impl Future<Output = Result<(u16, String), Error>>) -> Result<(u16, String), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", limit.as_secs()).into()),
        }
    })
}

/// `POST` of JSON.
pub async fn post(address: SocketAddr, path: &str, json: String) -> Result<(u16, String), Error> {
    send(address, "POST", path, &[(CONTENT_TYPE.as_str(), "application/json")], json).await
}

/// One request on a connection of its own; the status and the body.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<(u16, String), Error> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let body = Full::new(Bytes::from(body));
    let mut request = Request::builder().method(method).uri(path).header(HOST, address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(body)?).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
