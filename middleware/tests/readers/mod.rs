//! Who might read a path behind the gateway, and what they make of it.
//!
//! These readers know nothing of the gateway's own code. They do what servers are known to do: decode once or twice, take
//! `\` for `/`, resolve dot segments, merge slashes, cut off parameters.

fn unescape(text: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if text[at] == b'%' && text[at + 1] != b'+' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

fn cut(text: &[u8]) -> Vec<u8> {
    let segments = text.split(|&byte| byte == b'/');
    segments.map(|segment| segment.split(|&byte| byte == b';').next().unwrap()).collect::<Vec<_>>().join(&b'/')
}

/// What every one of the readers makes of a path: its segments.
pub(crate) fn readings(path: &str) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for choice in 0..3 * 16 {
        let (decodes, choice) = (choice % 3, choice / 3);
        let [cuts_first, cuts_last, backslashes, merges] = [1, 2, 4, 8].map(|bit| choice & bit != 0);
        let mut text = path.as_bytes().to_vec();
        if cuts_first {
            text = cut(&text);
        }
        for _ in 0..decodes {
            text = unescape(&text);
        }
        if backslashes {
            text.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        if cuts_last {
            text = cut(&text);
        }
        let mut segments: Vec<Vec<u8>> = Vec::new();
        for segment in text.split(|&byte| byte == b'/').skip(1) {
            match segment {
                b"." => {}
                b".." => drop(segments.pop()),
                b"" if merges => {}
                segment => segments.push(segment.to_vec()),
            }
        }
        all.push(segments);
    }
    all
}

/// Whether what a reader found is a path or something below it.
pub(crate) fn is_below(reading: &[Vec<u8>], segments: &[&str]) -> bool {
    reading.len() >= segments.len() && reading.iter().zip(segments).all(|(one, other)| one == other.as_bytes())
}
