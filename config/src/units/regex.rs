use std::fmt;
use std::str::FromStr;

use regex_automata::meta;

use super::written;

/// How large a compiled expression may become.
const SIZE_LIMIT: usize = 1 << 20;

/// A regular expression that must match the whole text.
#[derive(Clone)]
pub struct Regex {
    pattern: String,
    compiled: meta::Regex,
}

written!(Regex, expecting: "a regular expression", schema: {
    "type": "string",
    "title": "Regular expression",
    "description": "An expression in the syntax of Rust's regex crate; it must match the whole text.",
    "format": "regex",
    "examples": ["v[0-9]+"],
});

impl Regex {
    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The compiled expression, anchored at both ends, for those who want its captures.
    pub fn compiled(&self) -> &meta::Regex {
        &self.compiled
    }
}

impl FromStr for Regex {
    type Err = String;

    fn from_str(pattern: &str) -> Result<Self, String> {
        // On its own first: `a)(b` must not become valid by what is put around it.
        build(pattern)?;
        let compiled = build(&format!(r"\A(?:{pattern})\z"))
            // `(?x)` makes a comment of what follows a `#`, our parenthesis included.
            .or_else(|_| build(&format!("\\A(?:{pattern}\n)\\z")))?;
        Ok(Self { pattern: pattern.to_owned(), compiled })
    }
}

fn build(pattern: &str) -> Result<meta::Regex, String> {
    let config = meta::Config::new().nfa_size_limit(Some(SIZE_LIMIT));
    let mut builder = meta::Regex::builder();
    builder.configure(config);
    builder.build(pattern).map_err(|error| complaint(&error))
}

fn complaint(error: &meta::BuildError) -> String {
    if error.size_limit().is_some() {
        return "this expression is too large when compiled; make its repetitions smaller".into();
    }
    let Some(syntax) = error.syntax_error() else {
        return format!("this expression cannot be compiled: {error}");
    };
    // The report draws the expression over several lines; its last line says what is wrong.
    let report = syntax.to_string();
    let last = report.lines().last().unwrap_or_default();
    let said = last.strip_prefix("error: ").unwrap_or(last);
    format!("this is not a regular expression: {said}")
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.pattern)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}
