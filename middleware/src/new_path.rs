//! The path that the file wants in place of another: a whole one, perhaps with captures, or one for the prefix that
//! matched. `rewrite` gives it to the service, `redirect` to the client.

use http::uri::PathAndQuery;
use portcullis_config::one_form::in_one_form;

use crate::paths;

/// What takes the place of a request's path, in its one form.
#[derive(Debug, Clone)]
pub enum NewPath {
    /// This, whatever the path was.
    Whole(Template),
    /// Takes the place of the prefix that matched. Without a slash at its end, so empty for the root.
    Prefix(String),
}

impl NewPath {
    /// A whole path: `/v2/orders/{id}`.
    pub fn whole(text: &str) -> Result<Self, String> {
        let template = Template::parse(text)?;
        check_path(&template.fill(|_| Some("x")).unwrap_or_default())?;
        Ok(Self::Whole(template.in_one_form()))
    }

    /// What a prefix becomes: `/v2`.
    pub fn prefix(text: &str) -> Result<Self, String> {
        check_path(text)?;
        if text.contains(['{', '}']) {
            return Err(format!("is `{text}`, but takes no captures; `path` does"));
        }
        Ok(Self::Prefix(in_one_form(text.trim_end_matches('/'))))
    }
}

fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("must begin with `/`: `/{path}`"));
    }
    if path.contains(['?', '#']) {
        return Err("has a query, but that of the request stays; write the path alone".to_owned());
    }
    // Escapes may be written in any way; they get their one form.
    match paths::check_rewrite(path).map_err(|refusal| refusal.fault) {
        Err(fault) if fault != paths::Fault::Character => Err(format!("is `{path}`, where {}", fault.sentence())),
        _ if path.is_ascii() && PathAndQuery::try_from(path).is_ok() => Ok(()),
        _ => Err("has characters that a path cannot hold; write them percent-encoded".to_owned()),
    }
}

/// A prefix and what followed the old one, with one slash between them.
///
/// Who takes the path out of the request must not find a host in `//host`.
pub(crate) fn join(prefix: &str, rest: &str) -> String {
    let segments = rest.trim_start_matches('/');
    let slash = if rest.len() > segments.len() || prefix.is_empty() { "/" } else { "" };
    format!("{prefix}{slash}{segments}")
}

/// Text with captures: `/v2/{id}`.
#[derive(Debug, Clone)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Capture(String),
}

impl Template {
    /// Reads it, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| format!("is `{text}`, which lacks a `}}`"))?;
            // `{*rest}` captures the rest of a path in a route, so it is understood here as well.
            let name = name.strip_prefix('*').unwrap_or(name);
            if name.is_empty() || name.contains('{') {
                return Err(format!("is `{text}`, where a capture lacks its name"));
            }
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Capture(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') || pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if text.contains('}'))) {
            return Err(format!("is `{text}`, which has a `}}` too many"));
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    fn in_one_form(self) -> Self {
        let pieces = self.0.into_iter().map(|piece| match piece {
            Piece::Text(text) => Piece::Text(in_one_form(&text)),
            capture @ Piece::Capture(_) => capture,
        });
        Self(pieces.collect())
    }

    /// The names of its captures.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Capture(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with every capture replaced, or the name of one that is not known.
    pub fn fill<'a>(&self, capture: impl Fn(&str) -> Option<&'a str>) -> Result<String, &str> {
        let mut filled = String::new();
        for piece in &self.0 {
            filled.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Capture(name) => capture(name).ok_or(name.as_str())?,
            });
        }
        Ok(filled)
    }

    /// What its captures would have to be for this text to come out.
    pub(crate) fn solve<'a>(&'a self, text: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
        let (first, pieces) = self.0.split_first()?;
        let Piece::Text(first) = first else { return None };
        let (mut solved, mut rest) = (Vec::new(), text.strip_prefix(&**first)?);
        let mut pieces = pieces.iter();
        while let (Some(Piece::Capture(name)), Some(Piece::Text(fixed))) = (pieces.next(), pieces.next()) {
            let last = pieces.len() == 0;
            let (value, behind) = if last { (rest.strip_suffix(&**fixed)?, "") } else { rest.split_once(&**fixed)? };
            if value.is_empty() {
                return None;
            }
            solved.push((name.as_str(), value));
            rest = behind;
        }
        if !rest.is_empty() {
            return None;
        }
        Some(solved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_found_in_a_text_that_was_filled() {
        for (template, text, solved) in [
            ("/a", "/a", Some(&[][..])),
            ("/a", "/ab", None),
            ("/v2/{id}", "/v2/7", Some(&[("id", "7")])),
            ("/v2/{id}", "/v2/", None),
            ("/{*rest}", "/a/b", Some(&[("rest", "a/b")])),
            ("/{a}/{b}.json", "/x/y/z.json", Some(&[("a", "x"), ("b", "y/z")])),
            ("/{a}/{b}", "/x", None),
        ] {
            let template = Template::parse(template).expect(template);
            assert_eq!(template.solve(text).as_deref(), solved, "{text}");
        }
    }
}
