//! A connection that speaks another protocol now.
//!
//! The body of a `101` is not sent: it [is that protocol](crate::proxy), and is read to its end where it would have been
//! written. It belongs to the connection's task, so that a tunnel is a connection like any other to the limit of an
//! address and to a drain.

use std::future::poll_fn;
use std::pin::Pin;

use http_body::Body;
use portcullis_middleware::Cause;

use super::AnswerBody;
use super::stop::Stop;

/// Reads the body of a `101` to its end, or until connections are cut.
pub(super) async fn serve(mut body: Pin<Box<impl AnswerBody>>, stop: &Stop) {
    tokio::select! {
        biased;
        () = until_over(body.as_mut()) => {}
        () = stop.cut() => body.as_mut().break_off(Cause::Draining, 0),
    }
}

/// Reads the body of a `101` to its end.
pub(crate) async fn until_over(mut body: Pin<&mut impl Body>) {
    while let Some(Ok(_)) = poll_fn(|context| body.as_mut().poll_frame(context)).await {}
}
