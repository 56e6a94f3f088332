//! Anything a client may send, in any pieces: what is let through does not depend on the pieces, and every head in it
//! ends for another parser where it ends for us.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::server::strict::{Gate, Limits, Place, Refusal};

const LIMITS: Limits = Limits { request_line: 256, head: 1024, headers: 16 };

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (stride, bytes) = input;
    let whole = feed(&bytes, bytes.len().max(1));
    assert_eq!(feed(&bytes, 1), whole);
    assert_eq!(feed(&bytes, usize::from(stride).max(1)), whole);
});

/// What is let through if so many bytes come at a time, and why not all of it.
fn feed(bytes: &[u8], stride: usize) -> (Vec<u8>, Option<Refusal>) {
    let (mut gate, mut held, mut passed) = (Gate::new(LIMITS), Vec::new(), Vec::new());
    for piece in bytes.chunks(stride) {
        held.extend_from_slice(piece);
        loop {
            let (before, verdict) = (gate.requests(), gate.judge(&held));
            if stride == 1 && gate.requests() > before {
                let mut headers = [httparse::EMPTY_HEADER; 16];
                let read = httparse::Request::new(&mut headers).parse(&held).expect("the other parser takes it");
                assert_eq!(read, httparse::Status::Complete(held.len()));
            }
            passed.extend(held.drain(..verdict.pass));
            if verdict.refusal.is_some() {
                assert!(matches!(gate.place(&held), Place::Refused | Place::Broken));
                return (passed, verdict.refusal);
            }
            if gate.place(&held) != Place::Elsewhere {
                break;
            }
            // Nothing else is spoken here.
            gate.answered(false);
        }
    }
    (passed, None)
}
