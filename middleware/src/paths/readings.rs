//! How else a path could be read.
//!
//! Readers differ in how often they decode, in whether they cut off what follows a `;`, before they decode or after it, and
//! in whether several slashes are one. None of that is rare: servlet containers cut off parameters, a proxy before an
//! application makes for two decoders, and file systems merge slashes.

use portcullis_config::one_form::{is_pchar, push_escape};

use super::decoded;

/// Every other reading of a path that has its one form already, each in that form too. None of them is the path itself.
///
/// There are few, and none for nearly every path: ask only for one that is [doubtful](super::Trait::Doubtful).
pub fn readings(path: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for reader in READERS {
        let reading = reader.read(path);
        if reading != path && !all.contains(&reading) {
            all.push(reading);
        }
    }
    all
}

/// Whether some reader finds a dot segment in a path.
pub(super) fn has_hidden_dots(path: &str) -> bool {
    let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    READERS.iter().any(|reader| reader.segments(path).iter().any(|segment| is_dots(segment)))
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    /// How often it decodes.
    decodes: u8,
    /// When it cuts off parameters.
    cuts: Cuts,
    merges: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    Never,
    Encoded,
    Decoded,
}

const READERS: [Reader; 18] = {
    let mut readers = [Reader { decodes: 0, cuts: Cuts::Never, merges: false }; 18];
    let mut index = 0;
    while index < readers.len() {
        readers[index].decodes = (index % 3) as u8;
        readers[index].cuts = [Cuts::Never, Cuts::Encoded, Cuts::Decoded][index / 3 % 3];
        readers[index].merges = index / 9 == 1;
        index += 1;
    }
    readers
};

impl Reader {
    /// The segments that it finds, the first of which is empty: it stands before the first slash.
    fn segments(self, path: &str) -> Vec<Vec<u8>> {
        let mut text = path.as_bytes().to_vec();
        if self.cuts == Cuts::Encoded {
            text = text.split(|&byte| byte == b'/').map(without_parameters).collect::<Vec<_>>().join(&b'/');
        }
        for _ in 0..self.decodes {
            text = decoded(&text);
        }
        let segments = text.split(|byte| matches!(byte, b'/' | b'\\'));
        segments
            .map(|segment| if self.cuts == Cuts::Decoded { without_parameters(segment) } else { segment }.to_vec())
            .collect()
    }

    fn read(self, path: &str) -> String {
        let mut out = Vec::with_capacity(path.len());
        let segments = self.segments(path);
        let last = segments.len() - 1;
        for (index, segment) in segments.iter().enumerate() {
            // The first is what stands before the first slash, an empty last one what a slash at the end leaves.
            if self.merges && segment.is_empty() && index != 0 && index != last {
                continue;
            }
            if index > 0 {
                out.push(b'/');
            }
            for &byte in segment {
                // What was not decoded has its escapes still.
                if is_pchar(byte) || byte == b'%' && self.decodes == 0 {
                    out.push(byte);
                } else {
                    push_escape(&mut out, byte);
                }
            }
        }
        String::from_utf8(out).expect("nothing but ASCII was written")
    }
}

fn without_parameters(segment: &[u8]) -> &[u8] {
    segment.split(|&byte| byte == b';').next().unwrap_or_default()
}
