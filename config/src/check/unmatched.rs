//! Paths and expressions that no request can match, and why.

use crate::file::pattern;
use crate::one_form::{Left, example, in_one_form};
use crate::units::Regex;

/// Why something matches nothing, and what to do about it.
pub(super) struct Fault {
    pub(super) said: String,
    pub(super) help: Option<String>,
}

/// Why a path that has slashes in a row or encoded ones matches nothing, if it does.
pub(super) fn by_slashes(path: &str, left: Left) -> Option<Fault> {
    let upper = path.to_ascii_uppercase();
    let (said, key) = if path.contains("//") && !left.slashes {
        ("no path has `//` when routes are compared, so this matches nothing", "slashes")
    } else if (upper.contains("%2F") || upper.contains("%5C")) && !left.encoded_slashes {
        ("no path has an encoded slash when routes are compared, so this matches nothing", "encoded_slashes")
    } else {
        return None;
    };
    Some(Fault { said: said.into(), help: Some(format!("`paths = {{ {key} = \"keep\" }}` of a listener keeps them")) })
}

/// Why an expression matches no path in its one form, if it does not. Silent about what cannot be told.
pub(super) fn by_expression(regex: &Regex, left: Left) -> Option<Fault> {
    // Not a path, but what `OPTIONS *` asks for.
    if regex.is_match("*") || example(regex, left) != Ok(None) {
        return None;
    }
    let from_root = regex.shortest(false, |begun, byte| (begun || byte == b'/').then_some(true), |begun| begun);
    let Ok(Some(text)) = from_root else {
        return Some(Fault {
            said: "a path begins with `/`, and nothing that this expression matches does".into(),
            help: with_a_slash(regex, left).map(|better| format!("write `{better}`")),
        });
    };
    let settled = in_one_form(&text);
    let fault = by_slashes(&text, left).unwrap_or_else(|| match pattern::check_path(&text) {
        Err(said) => Fault { said, help: None },
        Ok(()) if settled != text => Fault {
            said: format!(
                "paths are compared in their one form, where `{text}` is `{settled}`, so this matches nothing"
            ),
            help: (regex.as_str() == text).then(|| format!("write `{settled}`")),
        },
        Ok(()) => Fault { said: "no path in its one form matches this expression".into(), help: None },
    });
    Some(fault)
}

/// The same expression with the slash that it may have been meant to begin with.
fn with_a_slash(regex: &Regex, left: Left) -> Option<String> {
    let text = regex.as_str();
    let text = text.strip_prefix('^').unwrap_or(text);
    let better = if text.contains('|') { format!("/(?:{text})") } else { format!("/{text}") };
    let parsed: Regex = better.parse().ok()?;
    example(&parsed, left).ok()?.map(|_| better)
}
