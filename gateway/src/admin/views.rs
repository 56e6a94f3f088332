//! Stub.
use serde_json::Value;
pub(super) fn routes(_: &crate::plan::Plan) -> Value {
    Value::Null
}
pub(super) fn services(_: &crate::plan::Plan) -> Value {
    Value::Null
}
