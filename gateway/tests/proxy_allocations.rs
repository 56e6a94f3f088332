//! How often the last hop asks for memory.

use std::thread;

use tokio::runtime::Builder;

mod support;
use http_body_util::BodyExt;
use portcullis_middleware::layer::Hop;
use support::Fake;
use support::proxy::*;

#[test]
fn a_forwarded_request_asks_for_memory_a_few_times() {
    let (give, take) = std::sync::mpsc::channel();
    // On a thread of its own: only what the measuring thread asks for is counted.
    thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let fake = Fake::new().await;
            give.send(fake.address).unwrap();
            fake.answer(OK).await;
        });
    });
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let proxy = runtime.block_on(async { Proxy::to(&[take.recv().unwrap()]) });
    let ask = |method: http::Method| {
        let mut request = get("/");
        *request.method_mut() = method;
        for (name, value) in [("user-agent", "curl"), ("accept", "*/*"), ("x-request-id", "1")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        arrive(&mut request);
        let measured = allocation_counter::measure(|| {
            runtime.block_on(async {
                let mut body = proxy.forward.run(request).await.into_body();
                while body.frame().await.is_some() {}
            });
        });
        measured.count_total
    };
    // The first one opens the connection, and what is kept for the next ones grows to its size.
    for _ in 0..70 {
        ask(http::Method::GET);
    }
    let least = |method: http::Method| (0..16).map(|_| ask(method.clone())).min();
    // Whatever may be sent a second time needs a copy of its headers.
    assert_eq!((least(http::Method::POST), least(http::Method::GET)), (Some(10), Some(16)));
}
