//! `portcullis explain`: what would happen to a request, and why.
//!
//! Nothing is decided here. A rehearsal goes the way of every request — [`edge`](crate::edge), the listener's chain, the
//! router, the route's chain, the last hop — and only at its end nothing is sent. What is told beside that (candidates,
//! each middleware's verdict) comes from the same tables and the same middlewares.

mod asked;
mod expect;
mod explanation;
mod rehearse;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::admin::client;
use crate::cli::{UNAVAILABLE, USAGE, eprint, fail, print, report};
use crate::plan;
use crate::plugins::Plugins;

use expect::Expectation;

pub use asked::Asked;
pub use explanation::{
    Answer, Candidate, Chain, Client, Explanation, Instance, Listener, Outcome, Retry, Service, Standing, Step, Target,
    Timeouts, Upstream, Verdict,
};
pub use rehearse::explain;

/// How long the running gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What nobody means by a URL.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

/// `portcullis explain`.
#[derive(Debug, Args)]
pub struct Question {
    /// The request's method and URL; before them, the file to ask instead of the running gateway.
    #[arg(required = true, value_name = "[FILE] METHOD URL")]
    words: Vec<String>,
    /// The file to ask instead of the running gateway.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A header of the request. May be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The address that the connection comes from. Default: 127.0.0.1.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The listener that the request comes to. Default: the one with the URL's port, else with the most specific host.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Print the explanation as JSON.
    #[arg(long)]
    json: bool,
    /// What must come out, or the exit code is 1: `route=orders,status=200`. Also `cause`, `service`, `listener`; the
    /// value `none` stands for what is not there. The status of a request that would be forwarded is 200.
    #[arg(long, value_name = "WHAT=VALUE,…")]
    expect: Vec<String>,
    /// The running gateway's admin listener.
    #[arg(long, env = "PORTCULLIS_ADMIN", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
}

/// Answers from a file, or asks the running gateway.
pub fn run(question: Question, plugins: &Plugins) -> ExitCode {
    let (file, asked, expected) = match question.read() {
        Ok(read) => read,
        Err(sentence) => return fail(USAGE, &sentence),
    };
    let told = match file {
        Some(file) => from_file(&file, &asked, plugins),
        None => from_gateway(question.admin, &asked),
    };
    let explanation = match told {
        Ok(explanation) => explanation,
        Err(code) => return code,
    };
    let shown = if question.json { json(&explanation) } else { text::render(&explanation) };
    let printed = print(&shown);

    let disappointments: Vec<_> = expected.iter().filter_map(|one| one.disappointment(&explanation)).collect();
    if disappointments.is_empty() {
        return printed;
    }
    for sentence in disappointments {
        eprint(&format!("error: {sentence}\n"));
    }
    ExitCode::FAILURE
}

impl Question {
    fn read(&self) -> Result<(Option<PathBuf>, Asked, Vec<Expectation>), String> {
        let (file, method, url) = match self.words.as_slice() {
            [file, method] if METHODS.contains(&method.as_str()) => {
                return Err(format!("a URL is missing: explain {file} {method} http://api.example.com/"));
            }
            [method, url] => (self.config.clone(), method, url),
            [file, method, url] if self.config.is_none() => (Some(PathBuf::from(file)), method, url),
            [_, _, _] => return Err("the file is named twice, by --config and before the method".to_owned()),
            _ => {
                return Err(
                    "write METHOD and URL, or FILE, METHOD and URL: explain GET http://api.example.com/".to_owned()
                );
            }
        };
        let header = |line: &String| match line.split_once(':') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            None => Err(format!("`{line}` is no header; write -H 'name: value'")),
        };
        let asked = Asked {
            method: method.clone(),
            url: url.clone(),
            headers: self.headers.iter().map(header).collect::<Result<_, _>>()?,
            client: self.client,
            listener: self.listener.clone(),
        };
        // A request that is none is refused here, before anybody is asked.
        asked.read()?;
        let expected = self.expect.iter().flat_map(|list| list.split(',')).map(str::parse);
        Ok((file, asked, expected.collect::<Result<_, _>>()?))
    }
}

fn from_file(file: &Path, asked: &Asked, plugins: &Plugins) -> Result<Explanation, ExitCode> {
    let (plan, faults) = plan::check(file, plugins);
    let Some(plan) = plan.filter(|_| !faults.has_errors()) else {
        report(&faults);
        return Err(ExitCode::from(USAGE));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| fail(UNAVAILABLE, &format!("cannot start a runtime: {error}")))?;
    runtime.block_on(rehearse::offline(&plan, asked)).map_err(|sentence| fail(USAGE, &sentence))
}

fn from_gateway(admin: SocketAddr, asked: &Asked) -> Result<Explanation, ExitCode> {
    let question = serde_json::to_string(asked).expect("strings serialise");
    let answer = client::ask(admin, "/explain", question, PATIENCE);
    let (status, body) = answer.map_err(|error| {
        let sentence = format!("the gateway's admin listener at {admin} does not answer: {error}; start it, or name a FILE to ask it instead");
        fail(UNAVAILABLE, &sentence)
    })?;
    match status {
        200 => serde_json::from_str(&body).map_err(|error| {
            fail(
                UNAVAILABLE,
                &format!("the answer of {admin} is no explanation ({error}); is it another version of Portcullis?"),
            )
        }),
        400..=499 => Err(fail(USAGE, &refusal(&body))),
        _ => Err(fail(UNAVAILABLE, &format!("the gateway at {admin} answered {status}: {}", refusal(&body)))),
    }
}

/// The sentence in an answer of the admin API.
fn refusal(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let sentence = parsed.as_ref().and_then(|value| value.get("error")?.as_str());
    sentence.unwrap_or(body.trim()).to_owned()
}

fn json(explanation: &Explanation) -> String {
    let mut text = serde_json::to_string_pretty(explanation).expect("an explanation serialises");
    text.push('\n');
    text
}
