//! An explanation for people: aligned, at most a hundred columns wide where words can be broken.

use portcullis_config::Protocol;

use super::explanation::{
    Candidate, Chain, Explanation, Outcome, Retry, Service, Standing, Step, Target, Timeouts, Upstream, Verdict,
};

/// What fits on a line.
const WIDTH: usize = 100;
/// Where what is told begins, after its label.
const MARGIN: usize = 10;
/// How many routes that do not match are told of; JSON has them all.
const FAILED: usize = 12;

/// Writes an explanation for a terminal.
pub(super) fn render(explanation: &Explanation) -> String {
    let request = &explanation.request;
    let mut out = format!("{} {}\n", request.method, request.url);

    let client = &explanation.client;
    section(&mut out, "client", vec![vec![client.address.to_string(), client.how.clone()]]);
    let listener = match &explanation.listener {
        Some(listener) => vec![listener.name.clone(), listener.at.clone(), listener.how.clone()],
        None => vec!["none".to_owned()],
    };
    section(&mut out, "listener", vec![listener]);
    if let Some(path) = &explanation.path {
        section(&mut out, "path", vec![vec![format!("read as {path}")]]);
    }
    section(&mut out, "route", routes(&explanation.candidates));
    section(&mut out, "chain", explanation.chain.iter().flat_map(step).collect());
    if let Some(Target::Services(services)) = &explanation.target {
        section(&mut out, "service", self::services(services));
    }
    if let Some(upstream) = &explanation.upstream {
        sent(&mut out, upstream);
    }
    section(&mut out, "answer", vec![vec![answer(explanation)]]);
    out
}

fn routes(candidates: &[Candidate]) -> Vec<Vec<String>> {
    if candidates.is_empty() {
        return vec![vec!["none".to_owned()]];
    }
    // The winner comes first: it is what most people want to know.
    let (winner, others): (Vec<_>, Vec<_>) = candidates.iter().partition(|candidate| candidate.outcome == Outcome::Won);
    let mut failed = 0;
    let mut rows = Vec::new();
    for candidate in winner.into_iter().chain(others) {
        failed += usize::from(candidate.outcome == Outcome::Failed);
        if candidate.outcome == Outcome::Failed && failed > FAILED {
            continue;
        }
        let name = match candidate.alternative {
            Some(number) => format!("{} (match {number})", candidate.route),
            None => candidate.route.clone(),
        };
        rows.push(vec![name, candidate.at.clone(), candidate.reason.clone()]);
    }
    if failed > FAILED {
        rows.push(vec![format!("… and {} more that do not match; --json has them all", failed - FAILED)]);
    }
    rows
}

fn step(step: &Step) -> Vec<Vec<String>> {
    let verdict = match (&step.verdict, step.type_name.as_str()) {
        (Verdict::Passed, "router") => "enters the route".to_owned(),
        (Verdict::Passed, _) => "lets pass".to_owned(),
        (Verdict::Wraps, _) => "wraps".to_owned(),
        (Verdict::Refused(cause), _) => format!("refuses: {cause}"),
        (Verdict::Answered(status), _) => format!("answers itself: {status}"),
        (Verdict::NotReached, _) => "not reached".to_owned(),
    };
    let verdict = match &step.detail {
        Some(detail) => format!("{verdict} ({detail})"),
        None => verdict,
    };
    let verdict = if step.changes.is_empty() { verdict } else { format!("{verdict}, {}", step.changes.join(", ")) };
    let type_name = if step.name == step.type_name { String::new() } else { step.type_name.clone() };
    let name = if step.chain == Chain::Listener { step.name.clone() } else { format!("  {}", step.name) };
    vec![vec![name, type_name, step.at.clone(), verdict]]
}

fn services(services: &[Service]) -> Vec<Vec<String>> {
    let total: u64 = services.iter().map(|service| u64::from(service.weight)).sum();
    let mut rows = Vec::new();
    for service in services {
        let mut told = Vec::new();
        if services.len() > 1 {
            // A split with nothing but zeros is no split.
            let percent = u64::from(service.weight) as f64 * 100.0 / total.max(1) as f64;
            told.push(format!("{percent:.3}").trim_end_matches('0').trim_end_matches('.').to_owned() + " %");
            if service.picked {
                told.push("picked this time".to_owned());
            }
        }
        told.push(match (&service.registry, service.standing) {
            (None, Standing::Known) => "instances in the file".to_owned(),
            (None, _) => "named by the request".to_owned(),
            (Some(registry), Standing::Known) => format!("from registry `{registry}`"),
            (Some(registry), Standing::Unknown) => format!("registry `{registry}` does not know it"),
            (Some(registry), Standing::Pending) => format!("registry `{registry}` has not answered yet"),
            (Some(registry), Standing::NotAsked) => format!("from registry `{registry}`, which was not asked"),
        });
        let weighted = service.instances.iter().any(|instance| instance.weight != 1);
        let instance = |instance: &super::Instance| match weighted {
            true => format!("{} (weight {})", instance.address, instance.weight),
            false => instance.address.clone(),
        };
        let instances: Vec<_> = service.instances.iter().map(instance).collect();
        if !instances.is_empty() {
            told.push(instances.join(", "));
        } else if service.standing == Standing::Known {
            told.push("none".to_owned());
        }
        rows.push(vec![service.name.clone(), service.at.clone().unwrap_or_default(), told.join("; ")]);
    }
    rows
}

fn sent(out: &mut String, upstream: &Upstream) {
    let over = match upstream.protocol {
        Protocol::Http1 => "",
        Protocol::H2 => " over HTTP/2",
        Protocol::H2c => " over HTTP/2, without TLS",
        Protocol::Auto => " over what the instance speaks",
    };
    let mut rows = vec![vec![format!("{} {}{over}", upstream.method, upstream.target)]];
    rows.extend(upstream.headers.iter().map(|(name, value)| vec![format!("{name}: {value}")]));
    // A header on two lines would be two headers.
    columns(out, "sends", rows, usize::MAX);
    section(out, "timeouts", vec![vec![timeouts(&upstream.timeouts)]]);
    section(out, "retry", vec![vec![retry(&upstream.retry)]]);
}

fn timeouts(timeouts: &Timeouts) -> String {
    let clocks = [
        ("total", &timeouts.total),
        ("attempt", &timeouts.attempt),
        ("connect", &timeouts.connect),
        ("first byte", &timeouts.first_byte),
        ("idle", &timeouts.idle),
    ];
    let clocks = clocks.iter().map(|(name, limit)| format!("{name} {}", limit.as_deref().unwrap_or("off")));
    clocks.collect::<Vec<_>>().join(", ")
}

fn retry(retry: &Retry) -> String {
    match (retry.attempts, retry.on.is_empty()) {
        (0 | 1, _) => "never".to_owned(),
        (attempts, true) => format!("{attempts} tries, if nothing was sent"),
        (attempts, false) => format!("{attempts} tries, on {}", retry.on.join(", ")),
    }
}

fn answer(explanation: &Explanation) -> String {
    let answer = &explanation.answer;
    let mut text = answer.status.to_string();
    if let Some(cause) = &answer.cause {
        text.push_str(&format!(" {cause}"));
    }
    if let Some(location) = &answer.location {
        text.push_str(&format!(" to {location}"));
    }
    format!("{text}, {}", answer.sentence)
}

/// One label and what belongs to it.
fn section(out: &mut String, label: &str, rows: Vec<Vec<String>>) {
    columns(out, label, rows, WIDTH);
}

/// Rows in columns. A row's last cell takes what is left of the line, and goes on below itself.
fn columns(out: &mut String, label: &str, rows: Vec<Vec<String>>, limit: usize) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() > column + 1).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = format!("{:MARGIN$}", if index == 0 { label } else { "" });
        let Some((last, cells)) = row.split_last() else { continue };
        for (cell, width) in cells.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            line.push_str(&format!("{cell:width$}  "));
        }
        let indent = line.chars().count();
        for (number, part) in wrap(last, limit.saturating_sub(indent)).into_iter().enumerate() {
            if number > 0 {
                line = " ".repeat(indent);
            }
            line.push_str(&part);
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// Breaks a text between words. Where little room is left, it stays on one line: a terminal breaks that better.
fn wrap(text: &str, room: usize) -> Vec<String> {
    if room < 30 {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line from the start");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_long_sentences_go_on_below_themselves() {
        let mut out = String::new();
        let long = "word ".repeat(20).trim_end().to_owned();
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        section(
            &mut out,
            "route",
            vec![row(["orders", "gateway.toml:31", "won"]), row(["a", "gateway.toml:8", &long])],
        );
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[0], "route     orders  gateway.toml:31  won");
        assert!(lines[1].starts_with("          a       gateway.toml:8   word word"), "{out}");
        assert!(lines[2].starts_with(&" ".repeat(35)) && lines[2].trim_start().starts_with("word"), "{out}");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{out}");
    }
}
