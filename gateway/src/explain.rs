//! Stub.
use clap::Args;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;
/// x
#[derive(Debug, Args)]
pub struct Question {}
/// x
#[derive(Serialize, Deserialize)]
pub struct Asked {}
/// x
#[derive(Serialize, Deserialize)]
pub struct Explanation {}
/// x
pub fn run(_: Question, _: &crate::Plugins) -> ExitCode {
    ExitCode::SUCCESS
}
/// x
pub async fn explain(_: &crate::plan::Plan, _: &Asked) -> Result<Explanation, String> {
    Ok(Explanation {})
}
