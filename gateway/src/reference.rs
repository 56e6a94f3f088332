//! Stub.
use crate::Plugins;
/// x
pub fn plugins(_: &Plugins, _: Option<&str>) -> Result<String, String> {
    Ok(String::new())
}
/// x
pub fn schema(_: &Plugins) -> String {
    String::new()
}
/// x
pub fn configuration(_: &Plugins) -> String {
    String::new()
}
