//! The X-Ray header as anybody may write it: what is read can be sent on, reads back as the same, and is left as it came
//! only if it says the same already.

use http::HeaderValue;
use portcullis_middleware::xray::header::{TraceHeader, read, renewed, upstream};

/// A header's value a line.
pub fn trace_header(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n');
    let values: Vec<_> = lines.filter_map(|line| HeaderValue::from_bytes(line.trim_ascii()).ok()).collect();
    let Some(header) = read(&values, |_| ()) else { return };
    for sampled in [true, false] {
        let sent = upstream(header.root, header.parent, sampled, &header.extras);
        assert!(sent.to_str().is_ok(), "what is sent on is printable: {sent:?}");
        // Longer ones are not read. Of what a client writes itself only so much travels on, of `Lineage` all.
        if sent.len() <= 1024 {
            expect_same(&header, sampled, &sent);
        }
        match renewed(values.first(), header.root, header.parent, sampled, &header.extras) {
            Some(renewed) => assert_eq!(renewed, sent),
            None => expect_same(&header, sampled, &values[0]),
        }
    }
}

fn expect_same(header: &TraceHeader<'_>, sampled: bool, sent: &HeaderValue) {
    let again = read([sent], |bad| panic!("{bad:?} in {sent:?}")).expect("what is sent on can be read");
    assert_eq!((again.root, again.parent), (header.root, header.parent), "{sent:?}");
    assert_eq!((again.sampled.decision(), &again.extras), (Some(sampled), &header.extras), "{sent:?}");
    assert_eq!(again.balancer, None, "what a load balancer added ends here: {sent:?}");
}
