//! A reverse proxy on Pingora with nothing switched on: `portcullis-bench-pingora LISTEN UPSTREAM THREADS`.
//!
//! Connections to the upstream are kept and reused, which is Pingora's default.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct PassOn {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for PassOn {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream.as_str(), false, String::new())))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, threads] = arguments.as_slice() else {
        eprintln!("usage: portcullis-bench-pingora LISTEN UPSTREAM THREADS");
        std::process::exit(64);
    };
    let threads = threads.parse().expect("a number of threads");

    let settings = ServerConf { threads, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut proxy = http_proxy_service(&Arc::clone(&server.configuration), PassOn { upstream: upstream.clone() });
    proxy.add_tcp(listen);
    server.add_service(proxy);
    server.run_forever();
}
