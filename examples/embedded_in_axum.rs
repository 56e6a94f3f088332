//! The gateway inside an axum application: the application's own routes first, the gateway for everything else.
//!
//! ```sh
//! cargo run --bin embedded_in_axum
//! curl -i http://127.0.0.1:8080/version        # the application's own
//! curl -i http://127.0.0.1:8080/healthz        # the gateway's
//! curl -i http://127.0.0.1:8080/admin          # refused by the gateway's whitelist
//! ```

use std::error::Error;
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use portcullis::Gateway;
use tokio::net::TcpListener;

const ROUTES: &str = include_str!("embedded_in_axum.toml");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let gateway = Gateway::from_toml("embedded_in_axum.toml", ROUTES, portcullis::plugins())
        .map_err(|faults| faults.render(false))?;

    let app = Router::new()
        .route("/version", get(|| async { env!("CARGO_PKG_VERSION") }))
        .fallback_service(gateway.router("web").ok_or("the file has no listener `web`")?);

    // The gateway decides by the client's address, so the application must tell it.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    axum::serve(TcpListener::bind(address).await?, app).await?;
    Ok(())
}
