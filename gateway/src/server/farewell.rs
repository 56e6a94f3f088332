//! The last words on a connection, and closing it so that they are heard.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a client may take to hear them.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much a client may still send that nobody reads.
const UNREAD: usize = 256 * 1024;

/// Says the last words, if there are any, and closes.
///
/// A socket that is closed while bytes in it are unread sends a reset, which a client hears *before* what was sent to it
/// earlier. So our side is closed first, and then what still comes is thrown away for a while.
pub(super) async fn part<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, words: &[u8]) {
    let parting = async {
        io.write_all(words).await?;
        io.shutdown().await?;
        let (mut scratch, mut left) = (vec![0; 4096], UNREAD);
        while left > 0 {
            match io.read(&mut scratch).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<_, io::Error>(())
    };
    // There is nobody left to tell if it fails.
    let _ = timeout(PATIENCE, parting).await;
}

/// A short answer as HTTP/1.1 has it, and the last one of its connection.
pub(super) async fn written<B: HttpBody<Data = Bytes>>(response: Response<B>) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let mut out = Vec::with_capacity(512);
    let reason = head.status.canonical_reason().unwrap_or_default();
    let date = httpdate::fmt_http_date(SystemTime::now());
    let begin =
        format_args!("HTTP/1.1 {} {reason}\r\ndate: {date}\r\nconnection: close\r\n", head.status.as_str()).to_string();
    out.extend_from_slice(begin.as_bytes());
    for (name, value) in &head.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    // A body that fails ends the connection early, which is where it ends anyway.
    if let Ok(body) = body.collect().await {
        out.extend_from_slice(&body.to_bytes());
    }
    out
}
