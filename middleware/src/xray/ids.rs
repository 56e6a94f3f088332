//! Trace and segment ids: minted, read and written.

use std::fmt;

use rand::Rng;

/// Two hex digits for every byte, so that writing an id is a table walk and not a formatter.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
};

/// What a hex digit stands for; [`NO_DIGIT`] for any other byte.
const VALUES: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        let lower = HEX[digit][1];
        table[lower as usize] = digit as u8;
        table[lower.to_ascii_uppercase() as usize] = digit as u8;
        digit += 1;
    }
    table
};
const NO_DIGIT: u8 = 0xff;

/// The id of a whole trace, written `1-5759e988-bd862e3fe1be46a994272793`. Never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// How many characters it is written with.
    pub const LENGTH: usize = 35;

    /// A new id of a trace that starts now, in seconds since 1970.
    ///
    /// It begins with the time, as AWS's ids do: collectors that still check the age of a trace accept it. The other
    /// 96 bits come from the thread's cryptographic generator, as AWS asks for: a guessed id would let a stranger
    /// write into somebody's trace.
    pub fn mint(now: u32) -> Self {
        let mut id = [0; 16];
        rand::rng().fill(&mut id[4..]);
        id[..4].copy_from_slice(&now.to_be_bytes());
        // All zero is "no trace". Reached only with a clock at 1970 and 96 zero bits.
        if id == [0; 16] {
            id[15] = 1;
        }
        Self(id)
    }

    /// Reads an id. Upper-case digits and an epoch that lost its leading zeros are accepted.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(b"1-")?;
        let dash = rest.iter().position(|byte| *byte == b'-')?;
        let (epoch, unique) = (&rest[..dash], &rest[dash + 1..]);
        if epoch.is_empty() || epoch.len() > 8 {
            return None;
        }
        let mut padded = [b'0'; 8];
        padded[8 - epoch.len()..].copy_from_slice(epoch);

        let mut id = [0; 16];
        read_hex(&padded, &mut id[..4])?;
        read_hex(unique, &mut id[4..])?;
        (id != [0; 16]).then_some(Self(id))
    }

    /// What [`text`](TraceId::text) wrote, as a `str`.
    pub(super) fn as_str(text: &[u8; Self::LENGTH]) -> &str {
        as_str(text)
    }

    /// The id as it is written.
    pub fn text(self) -> [u8; Self::LENGTH] {
        let mut text = [b'-'; Self::LENGTH];
        text[0] = b'1';
        write_hex(&self.0[..4], &mut text[2..10]);
        write_hex(&self.0[4..], &mut text[11..]);
        text
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(as_str(&self.text()))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of a segment or subsegment, 16 hex digits. Never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl SpanId {
    /// How many characters it is written with.
    pub const LENGTH: usize = 16;

    /// A new id.
    pub fn mint() -> Self {
        let id: u64 = rand::rng().random();
        Self(id.max(1).to_be_bytes())
    }

    /// The id that comes so many after this one. Never all zero either: counting goes on from 1.
    ///
    /// A segment's attempts are numbered on from its own id, so that there is no list of them to keep. To collide with
    /// another's of the same trace is as unlikely as for ids drawn one by one.
    #[must_use]
    pub fn after(self, count: u32) -> Self {
        let (id, wrapped) = u64::from_be_bytes(self.0).overflowing_add(count.into());
        Self((id + u64::from(wrapped)).to_be_bytes())
    }

    /// Reads an id; all zero means "none" and is refused.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut id = [0; 8];
        read_hex(text, &mut id)?;
        (id != [0; 8]).then_some(Self(id))
    }

    /// The id as it is written.
    pub fn text(self) -> [u8; Self::LENGTH] {
        let mut text = [0; Self::LENGTH];
        write_hex(&self.0, &mut text);
        text
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(as_str(&self.text()))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads exactly as many hex digits as fill `bytes`.
fn read_hex(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    // Looked at once, at the end: no valid digit has any of the upper bits.
    let mut seen = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen < 16).then_some(())
}

fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair.copy_from_slice(&HEX[usize::from(*byte)]);
    }
}

fn as_str(text: &[u8]) -> &str {
    std::str::from_utf8(text).expect("hex digits and dashes are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_id_starts_with_the_time_and_reads_back() {
        let id = TraceId::mint(0x5759_e988);
        assert!(id.to_string().starts_with("1-5759e988-"));
        assert_eq!(TraceId::parse(&id.text()), Some(id));
        assert_ne!(id, TraceId::mint(0x5759_e988));

        let span = SpanId::mint();
        assert_eq!(SpanId::parse(&span.text()), Some(span));
    }

    #[test]
    fn counting_on_from_an_id_meets_every_id_but_zero() {
        let after = |id: &str, count| SpanId::parse(id.as_bytes()).unwrap().after(count).to_string();
        assert_eq!(after("53995c3f42cd8ad8", 0), "53995c3f42cd8ad8");
        assert_eq!(after("53995c3f42cd8aff", 1), "53995c3f42cd8b00");
        assert_eq!(after("fffffffffffffffe", 1), "ffffffffffffffff");
        assert_eq!(after("fffffffffffffffe", 2), "0000000000000001");
        assert_eq!(after("ffffffffffffffff", u32::MAX), "00000000ffffffff");
    }

    #[test]
    fn upper_case_and_a_short_epoch_are_read_and_written_the_usual_way() {
        for (given, written) in [
            ("1-5759E988-BD862E3FE1BE46A994272793", "1-5759e988-bd862e3fe1be46a994272793"),
            ("1-0-bd862e3fe1be46a994272793", "1-00000000-bd862e3fe1be46a994272793"),
            ("1-1a-bd862e3fe1be46a994272793", "1-0000001a-bd862e3fe1be46a994272793"),
        ] {
            assert_eq!(TraceId::parse(given.as_bytes()).unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in [
            "",
            "1",
            "1-",
            "1--bd862e3fe1be46a994272793",
            "2-5759e988-bd862e3fe1be46a994272793",
            "1-5759e988-bd862e3fe1be46a99427279",
            "1-5759e988-bd862e3fe1be46a9942727933",
            "1-05759e988-bd862e3fe1be46a994272793",
            "1-5759e98g-bd862e3fe1be46a994272793",
            "1-5759e988-bd862e3fe1be46a99427279g",
            "1-5759e988bd862e3fe1be46a994272793",
            "1-5759e988-bd862e3fe1be-46a994272793",
            "1-00000000-000000000000000000000000",
            "1-+759e988-bd862e3fe1be46a994272793",
        ] {
            assert_eq!(TraceId::parse(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["", "0", "53995c3f42cd8ad", "53995c3f42cd8ad88", "53995c3f42cd8adg", "0000000000000000"] {
            assert_eq!(SpanId::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
