use std::fmt;
use std::str::FromStr;

use super::written;

/// A number of bytes, written with its unit: `"512B"`, `"32KiB"`, `"1MB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

written!(Size, expecting: "a size with its unit, for example \"32KiB\"", schema: {
    "type": "string",
    "title": "Size",
    "description": "A number of bytes with its unit: B, kB, MB, GB (powers of 1000) or KiB, MiB, GiB (powers of 1024).",
    "pattern": r"^\s*\d+(\.\d+)?\s*[kKMGTPE]?i?[bB]\s*$",
    "examples": ["512B", "32KiB", "1MB"],
});

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// The bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The bytes as a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let number = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &trimmed[number.len()..];
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("`{text}` is not a size; write for example \"512B\", \"32KiB\" or \"1MB\""));
        }
        if unit.is_empty() {
            return Err(format!("sizes carry a unit, for example \"{trimmed}B\" or \"{trimmed}KiB\""));
        }
        if !unit.ends_with(['b', 'B']) {
            return Err(format!("`{unit}` is not a unit of size; write B, kB, MB, GB, KiB, MiB or GiB"));
        }
        match trimmed.parse::<bytesize::ByteSize>() {
            Ok(size) => Ok(Self(size.as_u64())),
            Err(_) => Err(format!("`{trimmed}` is not a size; write for example \"512B\", \"32KiB\" or \"1MB\"")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In whole units only: what is printed reads back as the same number.
        for (unit, bytes) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 != 0 && self.0.is_multiple_of(bytes) {
                return write!(f, "{}{unit}", self.0 / bytes);
            }
        }
        write!(f, "{}B", self.0)
    }
}
