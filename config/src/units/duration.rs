use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use super::written;

/// A span of time, written with its unit: `"250ms"`, `"10s"`, `"1m 30s"`. It is never longer than [`Duration::LONGEST`], so
/// that no sum of one with a moment overflows, and timers can count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

written!(Duration, expecting: "a duration with its unit, for example \"10s\"", schema: {
    "type": "string",
    "title": "Duration",
    "description": "A span of time with its unit: ms, s, m, h, d; at most 365d. \"0s\" means off where a timeout is meant.",
    "pattern": r"^\s*\d+(\.\d+)?\s*[a-zµ]+(\s*\d+(\.\d+)?\s*[a-zµ]+)*\s*$",
    "examples": ["250ms", "10s", "1m 30s"],
});

impl Duration {
    /// Nobody waits for its end.
    pub const LONGEST: Self = Self(std::time::Duration::from_secs(365 * 24 * 60 * 60));

    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self::at_most_the_longest(std::time::Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self::at_most_the_longest(std::time::Duration::from_millis(milliseconds))
    }

    const fn at_most_the_longest(duration: std::time::Duration) -> Self {
        if duration.as_secs() < Self::LONGEST.0.as_secs() { Self(duration) } else { Self::LONGEST }
    }

    /// As the standard library's duration.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// As a timeout: `"0s"` is off.
    pub fn limit(self) -> Option<std::time::Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err("a duration is missing here, for example \"10s\"".into());
        }
        if trimmed.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err(format!("durations carry a unit, for example \"{trimmed}s\" or \"{trimmed}ms\""));
        }
        if trimmed.starts_with('-') {
            return Err(format!("a duration cannot be negative: `{trimmed}`"));
        }
        match humantime::parse_duration(trimmed) {
            Ok(duration) if duration <= Self::LONGEST.0 => Ok(Self(duration)),
            Err(humantime::DurationError::UnknownUnit { unit, .. }) => {
                Err(format!("`{unit}` is not a unit of time; write ms, s, m, h or d, for example \"10s\""))
            }
            Ok(_) | Err(humantime::DurationError::NumberOverflow) => {
                Err(format!("`{trimmed}` is too long; write at most \"365d\""))
            }
            Err(_) => Err(format!("`{trimmed}` is not a duration; write for example \"250ms\", \"10s\" or \"1m 30s\"")),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Deref for Duration {
    type Target = std::time::Duration;

    fn deref(&self) -> &std::time::Duration {
        &self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self::at_most_the_longest(duration)
    }
}
