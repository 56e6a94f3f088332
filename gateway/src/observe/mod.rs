//! Stub.
use crate::plan::Plan;
use crate::proxy::Pools;
use portcullis_middleware::{Exchange, Request, Response};
use std::sync::Arc;
/// x
pub struct Observer;
/// x
pub struct Watch;
impl Observer {
    /// x
    pub fn new(_: Arc<Pools>) -> Self {
        Self
    }
    /// x
    pub fn begin(&self, _: &Exchange, _: &mut Request) -> Watch {
        Watch
    }
    /// x
    pub fn follow(&self, _: &Plan) {}
    /// x
    pub fn note_reload(&self, _: bool) {}
    /// x
    pub fn render(&self, _: &Plan) -> String {
        String::new()
    }
    /// x
    pub fn reopen(&self) {}
    /// x
    pub async fn flush(&self) {}
}
impl Watch {
    /// x
    pub fn until_the_end(self, r: Response) -> Response {
        r
    }
}
