//! The command line: `run`, `check`, `explain`, `plugins`, `schema`, `health` and `demo`.
//!
//! Standard output carries what was asked for, standard error carries what is wrong. Exit codes follow `sysexits.h`
//! where it has one: `64` for a wrong command line or a wrong file, `69` for what is not available (a taken port, an
//! unreachable gateway), `70` for a worker that died, `1` for an expectation that does not hold.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_config::Faults;

use crate::escaped::Escaped;
use crate::plugins::Plugins;
use crate::{app, demo, explain, health, reference};

/// The command line or the configuration is wrong (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// The gateway itself is broken (`EX_SOFTWARE`).
pub(crate) const SOFTWARE: u8 = 70;
/// Something that is needed is not available (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;

/// An HTTP API gateway for the edge: one TOML file, three words to remember — listener, route, service.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway. SIGHUP or a change of the file reloads it, SIGTERM drains and ends it.
    Run(Run),
    /// Check configuration files: every fault at once, with its line. Binds nothing, contacts nothing.
    Check(Check),
    /// Tell what would happen to a request, and why: client, candidates, middlewares, service.
    ///
    /// With a FILE it answers from the file, without one it asks the running gateway.
    #[command(override_usage = "portcullis explain [FILE] METHOD URL [OPTIONS]")]
    Explain(explain::Question),
    /// List the middlewares and registries in this binary, or print one's settings, defaults and example.
    Plugins {
        /// The plugin to describe.
        name: Option<String>,
    },
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Ask a running gateway whether it is ready; exit code 0 says yes. Meant for container health checks.
    Health(health::Health),
    /// Start two upstreams and a gateway before them, and print curl lines to try.
    Demo(demo::Demo),
    /// Print the configuration reference in Markdown; the documentation is made from it.
    #[command(hide = true)]
    Reference,
}

/// `portcullis run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration file.
    pub file: PathBuf,
    #[command(flatten)]
    pub(crate) log: Log,
}

/// Where the gateway's own log goes and how it looks.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// How the gateway's own log looks; it goes to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What the log tells: error, warn, info, debug, or a filter such as `info,portcullis::registry=debug`.
    #[arg(long, env = "PORTCULLIS_LOG", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Whom the log does not quote unless it is told to: h2 warns of each odd frame, and a client may send many.
const QUIET: &str = "h2=error";

impl Log {
    /// Starts the log. Called once, before anything that logs.
    pub(crate) fn start(&self) -> Result<(), String> {
        use tracing_subscriber::EnvFilter;
        let filter = EnvFilter::try_new(format!("{QUIET},{}", self.log_level))
            .map_err(|error| format!("the log level `{}` is no filter: {error}", self.log_level))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => {
                let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
                log.with_ansi(is_terminal).fmt_fields(Escaped).init();
            }
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        Ok(())
    }
}

/// `portcullis check`.
#[derive(Debug, Args)]
struct Check {
    /// The configuration files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print the faults as JSON, one array for all files.
    #[arg(long)]
    json: bool,
    /// Treat warnings as errors.
    #[arg(long)]
    deny_warnings: bool,
}

/// Runs the command line of this process with the given plugins.
pub fn main(plugins: Plugins) -> ExitCode {
    if let Err(conflict) = plugins.unambiguous() {
        return fail(USAGE, &conflict);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // `--help` and `--version` come here too, and are no mistake.
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(run) => app::run(run, plugins),
        Command::Check(check) => check.run(&plugins),
        Command::Explain(question) => explain::run(question, &plugins),
        Command::Plugins { name } => match reference::plugins(&plugins, name.as_deref()) {
            Ok(text) => print(&text),
            Err(sentence) => fail(USAGE, &sentence),
        },
        Command::Schema => print(&reference::schema(&plugins)),
        Command::Health(health) => health::run(&health),
        Command::Demo(demo) => demo::run(demo, plugins),
        Command::Reference => print(&reference::configuration(&plugins)),
    }
}

impl Check {
    fn run(&self, plugins: &Plugins) -> ExitCode {
        let mut reports = Vec::new();
        let mut wrong = false;
        for file in &self.files {
            let (plan, faults) = crate::plan::check(file, plugins);
            let refused = plan.is_none() || faults.has_errors() || (self.deny_warnings && !faults.is_empty());
            wrong |= refused;
            if self.json {
                reports.push(faults);
                continue;
            }
            report(&faults);
            if let (Some(plan), false) = (plan, refused) {
                print(&format!("{}: ok, {}\n", file.display(), plan.summary()));
            }
        }
        if self.json {
            let reports = serde_json::to_string_pretty(&reports).expect("faults serialise");
            print(&format!("{reports}\n"));
        }
        if wrong { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
    }
}

/// Prints what was asked for. A closed pipe (`| head`) is no failure.
#[allow(clippy::print_stdout)]
pub(crate) fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(UNAVAILABLE, &format!("cannot write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints what is wrong.
pub(crate) fn eprint(text: &str) {
    use std::io::Write;
    // Nobody is left to tell if standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints what is wrong with a file, in colour where a person reads it.
pub(crate) fn report(faults: &Faults) {
    eprint(&faults.render(std::io::IsTerminal::is_terminal(&std::io::stderr())));
}

/// Prints one sentence as an error and returns the exit code.
pub(crate) fn fail(code: u8, sentence: &str) -> ExitCode {
    eprint(&format!("error: {sentence}\n"));
    ExitCode::from(code)
}
