//! A reverse proxy on Pingora with nothing switched on: `portcullis-bench-pingora LISTEN UPSTREAM THREADS`, and then
//! what is spoken, if it is more than HTTP/1.1 without TLS: `tls CERTIFICATE KEY`, `h2c`.
//!
//! Connections to the upstream are kept and reused, which is Pingora's default.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct PassOn {
    upstream: String,
    h2c: bool,
}

#[async_trait]
impl ProxyHttp for PassOn {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream.as_str(), false, String::new());
        if self.h2c {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = 64;
        }
        Ok(Box::new(peer))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [listen, upstream, threads, spoken @ ..] = words.as_slice() else { usage() };
    let threads = threads.parse().expect("a number of threads");
    let (tls, h2c) = match spoken {
        [] => (None, false),
        ["h2c"] => (None, true),
        ["tls", certificate, key] => (Some((certificate, key)), false),
        _ => usage(),
    };

    let settings = ServerConf { threads, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let pass_on = PassOn { upstream: (*upstream).to_owned(), h2c };
    let mut proxy = http_proxy_service(&Arc::clone(&server.configuration), pass_on);
    match tls {
        None => proxy.add_tcp(listen),
        Some((certificate, key)) => {
            let mut settings = TlsSettings::intermediate(certificate, key).expect("a certificate and its key");
            settings.enable_h2();
            proxy.add_tls_with_settings(listen, None, settings);
        }
    }
    server.add_service(proxy);
    server.run_forever();
}

fn usage() -> ! {
    eprintln!("usage: portcullis-bench-pingora LISTEN UPSTREAM THREADS [h2c | tls CERTIFICATE KEY]");
    std::process::exit(64);
}
