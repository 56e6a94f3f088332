//! As much of WebSocket (RFC 6455) as a short message needs: its frame, from a client and from a server.
//!
//! The key is always that of the RFC's example, so that nobody has to hash. Frames are of one kind and at most 125
//! bytes, whose length is one byte.

pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to it.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = *b"mask";
/// Of a client's frame: what it is, its length, the mask.
const HEAD: usize = 6;
const LONGEST: usize = 125;

/// The whole answer.
pub fn agreement() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

pub fn from_client(message: &[u8]) -> Vec<u8> {
    assert!(message.len() <= LONGEST);
    let mut frame = vec![BINARY, MASKED | message.len() as u8];
    frame.extend(MASK);
    frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub fn from_server(message: &[u8]) -> Vec<u8> {
    [&[BINARY, message.len() as u8], message].concat()
}

/// The first message in what a client has sent, and how long its frame was. An error is something else than a frame.
pub fn first(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Unknown> {
    let [kind, length, ..] = bytes else { return Ok(None) };
    let end = HEAD + usize::from(length & !MASKED);
    if *kind != BINARY || length & MASKED == 0 || end - HEAD > LONGEST {
        return Err(Unknown);
    }
    let Some(frame) = bytes.get(..end) else { return Ok(None) };
    let (mask, message) = frame[2..].split_at(MASK.len());
    Ok(Some((message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect(), end)))
}

pub struct Unknown;
