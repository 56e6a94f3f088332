//! A chunked body (RFC 9112 §7.1), byte by byte between chunks and in strides within them. Requests are judged by this and
//! answers as well.

use super::refusal::Fault;

/// How much of chunk extensions a body may have. Nobody here reads them, and next to nobody sends them.
const EXTENSIONS: u16 = 1024;

/// Where in a chunked body we are.
#[derive(Debug, Clone)]
pub(crate) struct Chunks {
    at: At,
    /// What is left of the chunk, or what its size says so far.
    left: u64,
    /// What extensions took so far.
    extensions: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The first digit of a size.
    Begin,
    /// A further digit, or what ends a size.
    Size,
    /// The first byte of an extension's name.
    Name,
    /// Within an extension's name.
    InName,
    /// The first byte of an extension's value.
    Value,
    /// Within a value that is a token.
    InValue,
    /// Within a value that is quoted.
    Quoted,
    /// Behind a backslash in quotes.
    Escaped,
    /// Behind a quoted value.
    Unquoted,
    /// The line feed that ends the size.
    SizeEnd,
    /// The chunk's data.
    Data,
    /// The carriage return behind the data.
    DataReturn,
    /// The line feed behind the data.
    DataFeed,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { at: At::Begin, left: 0, extensions: 0 }
    }

    /// Reads on. Returns how many bytes are in order, and whether the last chunk ended there; trailers follow then.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), (usize, Fault)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.at == At::Data {
                let stride = self.left.min((bytes.len() - at) as u64);
                self.left -= stride;
                // No more than `bytes.len()`, so the cast loses nothing.
                at += stride as usize;
                if self.left == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            match self.step(bytes[at]) {
                Ok(next) => self.at = next,
                Err(fault) => return Err((at, fault)),
            }
            at += 1;
            // The size's line has ended, and the size is none: this was the last chunk.
            if self.at == At::Data && self.left == 0 {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    #[cfg(test)]
    pub(super) fn is_in_data(&self) -> bool {
        self.at == At::Data
    }

    fn step(&mut self, byte: u8) -> Result<At, Fault> {
        if matches!(self.at, At::Name | At::InName | At::Value | At::InValue | At::Quoted | At::Escaped | At::Unquoted)
        {
            self.extensions += 1;
            if self.extensions > EXTENSIONS {
                return Err(Fault::ChunkExtensions);
            }
        }
        match (self.at, byte) {
            (At::Begin | At::Size, digit) if digit.is_ascii_hexdigit() => self.digit(digit),
            (At::Size | At::InName | At::InValue | At::Unquoted, b'\r') => Ok(At::SizeEnd),
            (At::Size | At::InName | At::InValue | At::Unquoted, b';') => Ok(At::Name),
            (At::InName, b'=') => Ok(At::Value),
            (At::Name | At::InName, byte) if is_tchar(byte) => Ok(At::InName),
            (At::Value, b'"') => Ok(At::Quoted),
            (At::Value | At::InValue, byte) if is_tchar(byte) => Ok(At::InValue),
            (At::Quoted, b'"') => Ok(At::Unquoted),
            (At::Quoted, b'\\') => Ok(At::Escaped),
            (At::Quoted | At::Escaped, b'\t' | b' '..=b'~' | 0x80..) => Ok(At::Quoted),
            (At::SizeEnd, b'\n') => Ok(At::Data),
            (At::DataReturn, b'\r') => Ok(At::DataFeed),
            (At::DataFeed, b'\n') => Ok(At::Begin),
            (At::Begin | At::Size | At::SizeEnd, _) => Err(Fault::ChunkSize),
            (At::DataReturn | At::DataFeed, _) => Err(Fault::ChunkEnd),
            _ => Err(Fault::ChunkExtension),
        }
    }

    fn digit(&mut self, digit: u8) -> Result<At, Fault> {
        let value = u64::from((digit as char).to_digit(16).expect("a hexadecimal digit"));
        if self.at == At::Begin {
            self.left = 0;
        } else if self.left == 0 {
            // Zeros before a size say as little as extensions do.
            self.extensions += 1;
            if self.extensions > EXTENSIONS {
                return Err(Fault::ChunkSize);
            }
        }
        // As for lengths: what does not fit into a signed number is negative for somebody.
        if self.left >> 59 != 0 {
            return Err(Fault::ChunkSize);
        }
        self.left = self.left << 4 | value;
        Ok(At::Size)
    }
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
