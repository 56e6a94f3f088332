//! A service to send to: it tells what it got.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::extract::Request;
use tokio::net::TcpListener;

/// Starts an upstream on a free port.
pub(super) async fn start(name: &'static str) -> std::io::Result<SocketAddr> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    let app = Router::new().fallback(move |request: Request| async move { tell(name, &request) });
    tokio::spawn(async move { axum::serve(socket, app).await });
    Ok(address)
}

fn tell(name: &str, request: &Request) -> String {
    let mut text = format!("{name} got {} {}\n", request.method(), request.uri());
    for (header, value) in request.headers() {
        let _ = writeln!(text, "  {header}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}
