//! WebSocket and streams with peers that others have written: `websockets` and `aiohttp`, on both sides.

mod support;

use support::gateway::Running;
use support::python::{Server, run};

async fn before(peers: &Server) -> Running {
    let [chat, http] = peers.addresses[..] else { panic!("two addresses: {:?}", peers.addresses) };
    Running::start(&format!(
        "[service.chat]\ninstances = [\"{chat}\"]\n[service.http]\ninstances = [\"{http}\"]\n\
         [[route]]\nmatch = {{ path = {{ prefix = \"/http\" }} }}\nchain = [\"compress\", {{ type = \"rewrite\", prefix = \"/\" }}]\nservice = \"http\"\n\
         [[route]]\nmatch = {{ path = {{ prefix = \"/closed\" }} }}\nchain = [{{ type = \"ip_whitelist\", allow = [\"192.0.2.0/24\"] }}]\nservice = \"chat\"\n\
         [[route]]\nmatch = {{ path = {{ prefix = \"/\" }} }}\nservice = \"chat\"\n",
    ))
    .await
}

#[tokio::test]
async fn websockets_talk_through_the_gateway() {
    let Some(peers) = Server::start("peers.py") else { return };
    let gateway = before(&peers).await;
    run("websocket_client.py", &[gateway.address.to_string()]).await;
}

#[tokio::test]
async fn aiohttp_streams_through_the_gateway() {
    let Some(peers) = Server::start("peers.py") else { return };
    let gateway = before(&peers).await;
    run("aiohttp_client.py", &[gateway.address.to_string()]).await;
}
