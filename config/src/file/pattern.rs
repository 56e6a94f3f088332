//! Paths with captures, in axum's syntax: `/orders/{id}`, `/files/{*rest}`, `{{` for a brace.

/// What is wrong with a pattern, if anything.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    check_text(pattern)?;
    let mut seen = Vec::new();
    let mut segments = pattern[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        check_segment(segment)?;
        let Some(capture) = capture(segment)? else {
            continue;
        };
        if capture.rest && capture.whole.len() != segment.len() {
            return Err(format!("`{}` must be a whole segment", capture.whole));
        }
        if capture.rest && segments.peek().is_some() {
            return Err(format!("`{}` takes all the rest, so nothing can follow it", capture.whole));
        }
        if seen.contains(&capture.name) {
            return Err(format!("`{}` is captured twice", capture.name));
        }
        seen.push(capture.name);
    }
    Ok(())
}

/// What is wrong with a prefix, if anything.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), String> {
    check_text(prefix)?;
    for segment in prefix[1..].split('/') {
        check_segment(segment)?;
    }
    if let Some(segment) = prefix.split('/').find(|segment| segment.contains(['{', '}'])) {
        return Err(format!(
            "a prefix captures nothing, so `{segment}` cannot stand in it; write a pattern that ends in `{{*rest}}`"
        ));
    }
    Ok(())
}

/// The names that a pattern captures.
pub(crate) fn captures(pattern: &str) -> impl Iterator<Item = &str> {
    let segments = pattern.split('/');
    segments.filter_map(|segment| capture(segment).ok().flatten().map(|capture| capture.name))
}

/// What is wrong with a path that an expression spells out, if it is more than how it is written.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    // White space and the like are only to be written differently.
    let printable: String = path.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
    check_text(&printable)?;
    path.split('/').try_for_each(check_dots)
}

struct Capture<'a> {
    /// With its braces.
    whole: &'a str,
    name: &'a str,
    /// `{*name}`: all the rest of the path.
    rest: bool,
}

/// The one capture of a segment.
fn capture(segment: &str) -> Result<Option<Capture<'_>>, String> {
    let mut found = None;
    let mut at = 0;
    while let Some(brace) = segment[at..].find(['{', '}']).map(|offset| at + offset) {
        let after = &segment[brace + 1..];
        let is_open = segment[brace..].starts_with('{');
        if after.starts_with(if is_open { '{' } else { '}' }) {
            at = brace + 2;
            continue;
        }
        if !is_open {
            return Err("`}` closes nothing; write `}}` for a brace".into());
        }
        let Some(length) = after.find(['{', '}']).filter(|&at| after[at..].starts_with('}')) else {
            return Err("`{` is never closed; write `{{` for a brace".into());
        };
        if found.is_some() {
            return Err(format!("`{segment}` has two captures; a segment may have one"));
        }
        let inside = &after[..length];
        let (name, rest) = inside.strip_prefix('*').map_or((inside, false), |name| (name, true));
        check_name(name, inside)?;
        at = brace + length + 2;
        found = Some(Capture { whole: &segment[brace..at], name, rest });
    }
    Ok(found)
}

fn check_name(name: &str, inside: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() {
        return Err(format!("`{{{inside}}}` captures without a name; write for example `{{id}}`"));
    }
    if inside.contains(':') {
        return Err(format!("`{{{inside}}}`: a capture takes no expression; use {{ regex = \"…\" }}"));
    }
    if !name.chars().all(fits) {
        return Err(format!("`{name}` cannot be the name of a capture: letters, digits, _ and - only"));
    }
    Ok(())
}

/// What is wrong with the text of a path, whatever its segments are.
pub(crate) fn check_text(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        let from = path.find("://").map_or(0, |scheme| scheme + 3);
        let slash = path[from..].find('/').map(|slash| &path[from + slash..]);
        return Err(match slash.filter(|_| from > 0) {
            Some(rest) => format!("a path starts with `/`: write `{rest}`, and the host into `hosts`"),
            None => format!("a path starts with `/`: write `/{path}`"),
        });
    }
    if path.contains('?') {
        return Err("a path ends before its `?`; parameters are matched by `query`".into());
    }
    if path.contains('#') {
        return Err("`#…` never reaches a server; leave it out".into());
    }
    if let Some(odd) = path.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{}` cannot stand in a path", odd.escape_default()));
    }
    if path.contains('\\') {
        return Err("no request with a `\\` in its path gets as far as a route".into());
    }
    let mut escapes = path.match_indices('%').map(|(at, _)| path.as_bytes().get(at + 1..at + 3));
    let is_escape = |digits: Option<&[u8]>| {
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
    };
    if !escapes.all(is_escape) {
        return Err("two hexadecimal digits follow a `%`, but not `00`; a percent sign itself is `%25`".into());
    }
    Ok(())
}

fn check_dots(segment: &str) -> Result<(), String> {
    match segment {
        "." | ".." => Err(format!("no request has a segment `{segment}`: it is resolved before routes are compared")),
        _ => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), String> {
    check_dots(segment)?;
    if let Some(name) = segment.strip_prefix(':') {
        return Err(format!("`:{name}` is an older notation; write `{{{name}}}`"));
    }
    if let Some(name) = segment.strip_prefix('*') {
        let name = if name.is_empty() { "rest" } else { name };
        return Err(format!("`{segment}` is an older notation; write `{{*{name}}}`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_axum_knows_are_fine() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/{id}",
            "/a/{id}/b",
            "/a/{*rest}",
            "/v{version}/x",
            "/{name}.json",
            "/{{literal}}",
            "/a//b",
            "/caf\u{e9}",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let names: Vec<_> = captures("/{a}/b/{c}.json/{{d}}/{*rest}").collect();
        assert_eq!(names, ["a", "c", "rest"]);
    }

    #[test]
    fn every_other_pattern_is_explained() {
        for (bad, said) in [
            ("", "a path starts with `/`"),
            ("orders", "write `/orders`"),
            ("https://a.example/x", "write `/x`, and the host into `hosts`"),
            ("/a?b", "matched by `query`"),
            ("/a#b", "never reaches"),
            ("/a b", "cannot stand"),
            ("/a\\b", "no request with a `\\`"),
            ("/100%", "is `%25`"),
            ("/a%zz", "is `%25`"),
            ("/a%00", "but not `00`"),
            ("/:id", "write `{id}`"),
            ("/*rest", "write `{*rest}`"),
            ("/*", "write `{*rest}`"),
            ("/{id", "never closed"),
            ("/{a{b}}", "never closed"),
            ("/id}", "closes nothing"),
            ("/{}", "without a name"),
            ("/{*}", "without a name"),
            ("/{id:[0-9]+}", "takes no expression"),
            ("/{a b}", "cannot stand"),
            ("/{a.b}", "cannot be the name"),
            ("/{a}{b}", "two captures"),
            ("/{a}/{a}", "captured twice"),
            ("/{*a}/b", "nothing can follow"),
            ("/x{*a}", "whole segment"),
            ("/a/../b", "resolved before"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(said), "{bad}: {error}");
        }
        let error = check_prefix("/a/{id}").unwrap_err();
        assert!(error.contains("captures nothing"), "{error}");
    }
}
