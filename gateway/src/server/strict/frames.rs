//! The frames of a connection that speaks HTTP/2, as they go by in whatever pieces, and how many of them are too many.
//!
//! h2 reads the frames. This looks over its shoulder, in both directions, for what h2 does not tell: that a header block
//! is on its way, that a client sends frames which carry nothing, and which streams h2 has refused by itself.

use std::time::Duration;

use h2::Reason;
use tokio::time::Instant;

use super::Fault;
use super::http2::PREFACE;

/// Within which time a client may send as many frames that carry nothing as its listener allows.
const CONTROL_PERIOD: Duration = Duration::from_secs(10);

/// Within which time it may give up as many requests as its listener allows.
const RESET_PERIOD: Duration = Duration::from_secs(30);

/// A client tells that it has room for more, of the stream and of the connection, and may measure the way as well.
const PER_DATA: u32 = 4;

/// What may come along with a request: its priority, and room for its answer.
const PER_REQUEST: u32 = 4;

/// How many requests given up a header list counts for that is too large.
const PER_OVERSIZE: u32 = 10;

/// h2's own answers have a status and nothing else, ours at least a date. This is more than a status takes.
const BARE_STATUS: usize = 8;

/// How many answers that have begun are remembered. h2 allows fewer streams at a time.
const ANSWERING: usize = 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;

/// How much a client may send that is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calm {
    /// Frames that carry nothing.
    pub control_frames: u32,
    /// Requests that the client gives up.
    pub resets: u32,
}

/// What is known of a connection by its frames.
#[derive(Debug)]
pub struct Traffic {
    inward: Frames,
    outward: Frames,
    control: Bucket,
    resets: Bucket,
    /// The highest stream that a client has opened.
    highest: u32,
    /// Whether the client's first frame has come.
    begun: bool,
    /// Whether a header block is on its way.
    block: bool,
    /// The streams whose answers have begun and not ended: what ends one is no answer, but its trailers.
    answering: Vec<u32>,
    seen: Seen,
}

/// What was seen go by so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Header blocks of new streams that have come whole.
    pub opened: u64,
    /// Streams whose header list was too large, which h2 has answered.
    pub oversize: u64,
    /// Streams that h2 has refused because there were too many.
    pub refused: u64,
    /// Streams that h2 has reset because what came on them was malformed.
    pub malformed: u64,
    /// Frames that carry a part of an answer.
    pub data: u64,
    /// Why h2 ends the connection, if it is for an error.
    pub goodbye: Option<u32>,
}

impl Traffic {
    /// That of a new connection, which begins with the preface.
    pub fn new(calm: Calm) -> Self {
        Self {
            inward: Frames { skip: PREFACE.len(), ..Frames::default() },
            outward: Frames::default(),
            control: Bucket::new(calm.control_frames, CONTROL_PERIOD),
            resets: Bucket::new(calm.resets, RESET_PERIOD),
            highest: 0,
            begun: false,
            block: false,
            answering: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// The client has sent this. An error is the end of the connection.
    pub fn arrived(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(step) = self.inward.step(&mut bytes) {
            match step {
                // RFC 9113 §3.4: the preface is not over before it.
                Step::Begin(head) if !self.begun && (head.kind != SETTINGS || head.flags & ACK != 0) => {
                    return Err(Fault::Protocol);
                }
                Step::Begin(head) => {
                    self.begun = true;
                    self.block |= matches!(head.kind, HEADERS | CONTINUATION);
                }
                Step::End(head, begin) => self.frame(head, begin)?,
            }
        }
        Ok(())
    }

    fn frame(&mut self, head: Head, begin: [u8; 8]) -> Result<(), Fault> {
        match head.kind {
            HEADERS | CONTINUATION => {
                let ends = head.flags & END_HEADERS != 0;
                self.block = !ends;
                if ends && head.stream > self.highest {
                    self.highest = head.stream;
                    self.seen.opened += 1;
                    self.control.refund(PER_REQUEST);
                }
                if head.length == 0 { self.control.take(1, Fault::Flood) } else { Ok(()) }
            }
            DATA => {
                let padding = if head.flags & PADDED != 0 { 1 + usize::from(begin[0]) } else { 0 };
                let is_empty = head.length <= padding && head.flags & END_STREAM == 0;
                if is_empty { self.control.take(1, Fault::Flood) } else { Ok(()) }
            }
            RST_STREAM => {
                self.answering.retain(|stream| *stream != head.stream);
                self.resets.take(1, Fault::Resets)
            }
            // SETTINGS, PING, PRIORITY, WINDOW_UPDATE, and what nobody knows.
            _ => self.control.take(1, Fault::Flood),
        }
    }

    /// This was sent to the client.
    pub fn sent(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(step) = self.outward.step(&mut bytes) {
            let Step::End(head, begin) = step else { continue };
            let number = |at: usize| u32::from_be_bytes([begin[at], begin[at + 1], begin[at + 2], begin[at + 3]]);
            let begun = self.answer(head);
            match head.kind {
                DATA => {
                    self.seen.data += 1;
                    self.control.refund(PER_DATA);
                }
                HEADERS if !begun && head.flags & END_STREAM != 0 && is_bare(head, &begin) => {
                    self.seen.oversize += 1;
                    // To unpack such a list costs as much as many requests, and nobody else counts them.
                    self.resets.take(PER_OVERSIZE, Fault::Resets)?;
                }
                RST_STREAM if number(0) == REFUSED_STREAM => self.seen.refused += 1,
                RST_STREAM if number(0) == PROTOCOL_ERROR => self.seen.malformed += 1,
                GOAWAY if number(4) != 0 => self.seen.goodbye = Some(number(4)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes how far the answer of a stream is. Returns whether it had begun before.
    fn answer(&mut self, head: Head) -> bool {
        let is_over = matches!(head.kind, HEADERS | DATA) && head.flags & END_STREAM != 0 || head.kind == RST_STREAM;
        let at = self.answering.iter().position(|stream| *stream == head.stream);
        match at {
            Some(at) if is_over => _ = self.answering.swap_remove(at),
            None if head.kind == HEADERS && !is_over && self.answering.len() < ANSWERING => {
                self.answering.push(head.stream);
            }
            _ => {}
        }
        at.is_some()
    }

    /// Whether a header block is on its way.
    pub fn is_in_a_block(&self) -> bool {
        self.block
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// A last frame that tells the client why it is to go, if there is room for it between those that were sent.
    pub fn goodbye(&self, reason: Reason) -> Vec<u8> {
        if !self.outward.is_between() || self.seen.goodbye.is_some() {
            return Vec::new();
        }
        let mut frame = vec![0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&self.highest.to_be_bytes());
        frame.extend_from_slice(&u32::from(reason).to_be_bytes());
        frame
    }
}

/// Whether a header block has one field only. A block of a few bytes may have several, if the client was sent them before.
fn is_bare(head: Head, begin: &[u8; 8]) -> bool {
    head.length <= BARE_STATUS
        && begin.get(..head.length).is_some_and(|block| one_field(block).is_some_and(<[u8]>::is_empty))
}

/// What comes after the first field of a block, by its form (RFC 7541 §6).
fn one_field(mut block: &[u8]) -> Option<&[u8]> {
    // The size of the table may be told anew before.
    while *block.first()? & 0xe0 == 0x20 {
        block = integer(block, 5)?.1;
    }
    match *block.first()? {
        indexed if indexed & 0x80 != 0 => Some(integer(block, 7)?.1),
        literal => {
            let (name, rest) = integer(block, if literal & 0x40 != 0 { 6 } else { 4 })?;
            text(if name == 0 { text(rest)? } else { rest })
        }
    }
}

/// What comes after a text.
fn text(block: &[u8]) -> Option<&[u8]> {
    let (length, rest) = integer(block, 7)?;
    rest.get(length..)
}

/// A number with a prefix of so many bits, and what comes after it.
fn integer(block: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = block.split_first()?;
    let most = (1 << prefix) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        for shift in [0, 7, 14] {
            let (next, after) = rest.split_first()?;
            (number, rest) = (number + (usize::from(next & 0x7f) << shift), after);
            if next & 0x80 == 0 {
                return Some((number, rest));
            }
        }
        return None;
    }
    Some((number, rest))
}

/// Where one direction of a connection is.
#[derive(Debug, Default)]
struct Frames {
    /// So many bytes are no frames.
    skip: usize,
    head: [u8; 9],
    /// How much of the head has come.
    have: usize,
    /// How much of the payload has come, once the head is there.
    come: Option<usize>,
    /// What the payload begins with.
    begin: [u8; 8],
}

#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

enum Step {
    Begin(Head),
    End(Head, [u8; 8]),
}

impl Frames {
    /// The next begin or end of a frame in the bytes, which are used up on the way.
    fn step(&mut self, bytes: &mut &[u8]) -> Option<Step> {
        let skip = self.skip.min(bytes.len());
        self.skip -= skip;
        *bytes = &bytes[skip..];
        let Some(come) = &mut self.come else {
            let part = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            *bytes = &bytes[part..];
            if self.have < self.head.len() {
                return None;
            }
            (self.come, self.begin) = (Some(0), [0; 8]);
            return Some(Step::Begin(self.head()));
        };
        let head = Head::read(&self.head);
        let part = (head.length - *come).min(bytes.len());
        if *come < self.begin.len() {
            let shown = part.min(self.begin.len() - *come);
            self.begin[*come..*come + shown].copy_from_slice(&bytes[..shown]);
        }
        *come += part;
        *bytes = &bytes[part..];
        if *come < head.length {
            return None;
        }
        (self.have, self.come) = (0, None);
        Some(Step::End(head, self.begin))
    }

    fn head(&self) -> Head {
        Head::read(&self.head)
    }

    fn is_between(&self) -> bool {
        self.have == 0 && self.come.is_none()
    }
}

impl Head {
    fn read(&[a, b, c, kind, flags, s0, s1, s2, s3]: &[u8; 9]) -> Self {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }
}

/// So much at once, and as much again in each period.
#[derive(Debug)]
struct Bucket {
    left: u32,
    size: u32,
    period: Duration,
    /// Up to when it was filled.
    filled: Instant,
}

impl Bucket {
    fn new(size: u32, period: Duration) -> Self {
        Self { left: size, size, period, filled: Instant::now() }
    }

    fn refund(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.size);
    }

    /// Takes from it. The clock is looked at only when it is empty.
    fn take(&mut self, count: u32, fault: Fault) -> Result<(), Fault> {
        if self.left < count {
            self.fill();
        }
        self.left = self.left.checked_sub(count).ok_or(fault)?;
        Ok(())
    }

    #[cold]
    fn fill(&mut self) {
        let now = Instant::now();
        let share = (now - self.filled).as_secs_f64() / self.period.as_secs_f64();
        let new = (share * f64::from(self.size)) as u32;
        if new > 0 {
            self.refund(new);
            self.filled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Calm = Calm { control_frames: 20, resets: 10 };

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn begun() -> Traffic {
        let mut traffic = Traffic::new(CALM);
        traffic.arrived(PREFACE).unwrap();
        traffic.begun = true;
        traffic
    }

    #[tokio::test]
    async fn the_first_frame_is_settings() {
        for (kind, flags, judged) in
            [(SETTINGS, 0, Ok(())), (SETTINGS, ACK, Err(Fault::Protocol)), (6, 0, Err(Fault::Protocol))]
        {
            let mut traffic = Traffic::new(CALM);
            traffic.arrived(PREFACE).unwrap();
            assert_eq!(traffic.arrived(&frame(kind, flags, 0, &[0; 8])), judged, "{kind} {flags}");
        }
    }

    #[tokio::test]
    async fn frames_are_found_in_whatever_pieces_they_come() {
        let bytes = [
            PREFACE.to_vec(),
            frame(4, 0, 0, &[0; 12]),
            frame(HEADERS, END_STREAM, 1, b"half"),
            frame(CONTINUATION, END_HEADERS, 1, b"rest"),
            frame(HEADERS, END_HEADERS, 3, b"block"),
            frame(DATA, END_STREAM, 3, &[7; 300]),
        ]
        .concat();
        for size in [1, 7, 9, 100, bytes.len()] {
            let mut traffic = Traffic::new(CALM);
            bytes.chunks(size).for_each(|piece| traffic.arrived(piece).unwrap());
            assert_eq!((traffic.seen().opened, traffic.is_in_a_block()), (2, false), "{size}");
            assert!(traffic.inward.is_between());
        }
    }

    #[tokio::test]
    async fn a_header_block_is_on_its_way_from_its_first_byte_behind_the_head_to_its_last() {
        let mut traffic = begun();
        let block = [frame(HEADERS, 0, 1, b"half"), frame(CONTINUATION, END_HEADERS, 1, b"rest")].concat();
        for at in 9..block.len() - 1 {
            let mut traffic = begun();
            traffic.arrived(&block[..at]).unwrap();
            assert!(traffic.is_in_a_block(), "{at}");
        }
        traffic.arrived(&block).unwrap();
        assert!(!traffic.is_in_a_block());
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_nothing_is_counted_and_what_is_answered_with_data_is_not() {
        for flood in [
            frame(4, 0, 0, b""),
            frame(6, 0, 0, &[0; 8]),
            frame(8, 0, 0, &[0, 0, 0, 1]),
            frame(2, 0, 1, &[0; 5]),
            frame(200, 0, 0, b"?"),
            frame(DATA, 0, 1, b""),
            frame(DATA, PADDED, 1, &[3, 0, 0, 0]),
        ] {
            let mut traffic = begun();
            for _ in 0..CALM.control_frames {
                traffic.arrived(&flood).unwrap();
            }
            assert_eq!(traffic.arrived(&flood), Err(Fault::Flood), "{flood:?}");
            tokio::time::advance(CONTROL_PERIOD / 2).await;
            for _ in 0..CALM.control_frames / 2 {
                traffic.arrived(&flood).unwrap();
            }
            assert_eq!(traffic.arrived(&flood), Err(Fault::Flood));

            let mut traffic = begun();
            for _ in 0..1000 {
                traffic.sent(&frame(DATA, 0, 1, b"answer")).unwrap();
                traffic.arrived(&flood).unwrap();
                traffic.arrived(&flood).unwrap();
            }
        }
        let mut traffic = begun();
        for _ in 0..1000 {
            traffic.arrived(&frame(DATA, 0, 1, b"upload")).unwrap();
            traffic.arrived(&frame(DATA, PADDED, 1, &[1, b'x', 0])).unwrap();
        }
    }

    #[tokio::test]
    async fn requests_that_are_given_up_are_counted_apart() {
        let mut traffic = begun();
        for _ in 0..CALM.resets {
            traffic.arrived(&frame(RST_STREAM, 0, 1, &[0; 4])).unwrap();
        }
        assert_eq!(traffic.arrived(&frame(RST_STREAM, 0, 1, &[0; 4])), Err(Fault::Resets));
    }

    #[tokio::test]
    async fn what_h2_refuses_by_itself_is_seen() {
        let mut traffic = begun();
        for (kind, flags, stream, payload) in [
            (HEADERS, END_HEADERS | END_STREAM, 1, &[0x48, 3, b'4', b'3', b'1'][..]),
            (HEADERS, END_HEADERS | END_STREAM, 3, &[0; 40]),
            (RST_STREAM, 0, 5, &[0, 0, 0, 7]),
            (RST_STREAM, 0, 7, &[0, 0, 0, 1]),
            (RST_STREAM, 0, 9, &[0, 0, 0, 0]),
        ] {
            for byte in frame(kind, flags, stream, payload) {
                traffic.sent(&[byte]).unwrap();
            }
        }
        let Seen { oversize, refused, malformed, goodbye, .. } = traffic.seen();
        assert_eq!((oversize, refused, malformed, goodbye), (1, 1, 1, None));
        // An answer of few bytes has fields that were sent before, and trailers may be even shorter.
        for (kind, flags, stream, payload) in [
            (HEADERS, END_HEADERS | END_STREAM, 11, &[0x89, 0xbf][..]),
            (HEADERS, END_HEADERS, 13, &[0x88, 0xbf]),
            (DATA, 0, 13, b"body"),
            (HEADERS, END_HEADERS | END_STREAM, 13, &[0xbe]),
            (HEADERS, END_HEADERS, 15, &[0x88, 0xbf]),
            (DATA, END_STREAM, 15, b"body"),
        ] {
            traffic.sent(&frame(kind, flags, stream, payload)).unwrap();
        }
        assert_eq!((traffic.seen().oversize, traffic.answering.len()), (1, 0));
        // What h2 says a second time, or after a change of the table's size.
        for block in [&[0xbe][..], &[0x20, 0xff, 0x03], &[0x48, 0x82, 0x65, 0x07], &[0x08, 3, b'4', b'3', b'1']] {
            let mut traffic = begun();
            traffic.sent(&frame(HEADERS, END_HEADERS | END_STREAM, 17, block)).unwrap();
            assert_eq!(traffic.seen().oversize, 1, "{block:?}");
        }
        assert_eq!(traffic.goodbye(Reason::ENHANCE_YOUR_CALM), frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xb]));
        traffic.sent(&[0, 0]).unwrap();
        assert!(
            traffic.goodbye(Reason::ENHANCE_YOUR_CALM).is_empty(),
            "in the middle of a frame there is no room for another"
        );
    }
}
