//! Anything a peer may send first: whether it is a header does not depend on the pieces it comes in, it ends where its
//! bytes end, and its addresses are plain ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::proxy_protocol::{LONGEST, Said, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for cut in 0..bytes.len().min(LONGEST + 1) {
        let piece = parse(&bytes[..cut]);
        assert!(piece == Ok(None) || piece == whole, "{piece:?} of {cut} bytes, {whole:?} of all");
    }
    match whole {
        Ok(None) => assert!(bytes.len() < LONGEST),
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len().min(LONGEST));
            assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
            if let Said::Relayed { source, destination } = header.said {
                assert_eq!((source.ip().to_canonical(), destination.ip().to_canonical()), (source.ip(), destination.ip()));
            }
        }
        Err(_) => {}
    }
});
