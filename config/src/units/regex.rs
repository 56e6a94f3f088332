use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use regex_automata::hybrid::dfa;
use regex_automata::hybrid::{CacheError, LazyStateID};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input, meta};

use super::written;

/// How large a compiled expression may become.
const SIZE_LIMIT: usize = 1 << 20;

/// How many states a search for a shortest text may come by, and how much memory its automaton may take.
const MOST_STATES: usize = 20_000;
const MOST_MEMORY: usize = 4 << 20;

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

    /// The names of its groups.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.compiled.group_info().all_names().filter_map(|(_, _, name)| name)
    }

    /// A shortest text that matches and that an automaton beside it takes, or `None` if there is none.
    ///
    /// `step` leads from state to state and gives up by `None`; `may_end` says where a text may end.
    pub(crate) fn shortest<S: Copy + Eq + Hash>(
        &self,
        begin: S,
        step: impl Fn(S, u8) -> Option<S>,
        may_end: impl Fn(S) -> bool,
    ) -> Result<Option<String>, TooMany> {
        let automaton = self.automaton().ok_or(TooMany)?;
        let mut cache = automaton.create_cache();
        let anchored = Input::new("").anchored(Anchored::Yes);
        let start = automaton.start_state_forward(&mut cache, &anchored).map_err(|_| TooMany)?;
        // Each state with the one it was reached from, and by which byte.
        let mut reached = vec![(start, begin, 0, 0)];
        let mut known = HashSet::from([(start, begin)]);
        let mut at = 0;
        while let Some(&(state, beside, ..)) = reached.get(at) {
            if may_end(beside) && automaton.next_eoi_state(&mut cache, state)?.is_match() {
                return Ok(Some(walked(&reached, at)));
            }
            for byte in readable_first() {
                let Some(beside) = step(beside, byte) else { continue };
                let next = automaton.next_state(&mut cache, state, byte)?;
                if next.is_quit() {
                    return Err(TooMany);
                }
                if !next.is_dead() && known.insert((next, beside)) {
                    reached.push((next, beside, at, byte));
                }
            }
            if reached.len() > MOST_STATES {
                return Err(TooMany);
            }
            at += 1;
        }
        Ok(None)
    }

    fn automaton(&self) -> Option<dfa::DFA> {
        let config = dfa::Config::new()
            .cache_capacity(MOST_MEMORY)
            .minimum_cache_clear_count(Some(0))
            .unicode_word_boundary(true);
        let compiler = thompson::Config::new().nfa_size_limit(Some(SIZE_LIMIT));
        let mut builder = dfa::DFA::builder();
        builder.configure(config).thompson(compiler);
        anchored(&self.pattern).iter().find_map(|pattern| builder.build(pattern).ok())
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
        let [usual, other] = anchored(pattern);
        let compiled = build(&usual).or_else(|_| build(&other))?;
        Ok(Self { pattern: pattern.to_owned(), compiled })
    }
}

/// The expression anchored at both ends; the second is for one whose first cannot be compiled.
fn anchored(pattern: &str) -> [String; 2] {
    // `(?x)` makes a comment of what follows a `#`, our parenthesis included.
    [format!(r"\A(?:{pattern})\z"), format!("\\A(?:{pattern}\n)\\z")]
}

/// A search came by more states than it may: nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl From<CacheError> for TooMany {
    fn from(_: CacheError) -> Self {
        Self
    }
}

/// Every byte, those first that a reader would choose for an example.
fn readable_first() -> impl Iterator<Item = u8> {
    let fits = |byte: &u8| byte.is_ascii_lowercase() || matches!(byte, b'/' | b'0'..=b'9');
    (0..=u8::MAX).filter(fits).chain((0..=u8::MAX).filter(move |byte| !fits(byte)))
}

/// The text that leads to a state.
fn walked<S>(reached: &[(LazyStateID, S, usize, u8)], mut at: usize) -> String {
    let mut text = Vec::new();
    while at > 0 {
        let (.., from, byte) = reached[at];
        text.push(byte);
        at = from;
    }
    text.reverse();
    String::from_utf8_lossy(&text).into_owned()
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
