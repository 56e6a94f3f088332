//! What the upstream is asked for.
//!
//! | path ends in | answer |
//! |---|---|
//! | `/113` | that many bytes, letters in turn |
//! | `/connections` | how many connections were accepted so far: tells whether a gateway keeps its own |
//! | `/head` | the head of the request as it came: tells what a gateway made of it |

const LARGEST_BODY: usize = 64 * 1024 * 1024;

pub enum Asked {
    Bytes(usize),
    Connections,
    Head,
}

impl Asked {
    /// What is said of any other path.
    pub const NOTHING: &[u8] = b"the path ends in no size\n";

    pub fn by(path: &[u8]) -> Option<Self> {
        match path.rsplit(|byte| *byte == b'/').next().unwrap_or_default() {
            b"connections" => Some(Self::Connections),
            b"head" => Some(Self::Head),
            size => str::from_utf8(size).ok()?.parse().ok().filter(|size| *size <= LARGEST_BODY).map(Self::Bytes),
        }
    }
}

/// The body of an answer of that size.
pub fn letters(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size).collect()
}
