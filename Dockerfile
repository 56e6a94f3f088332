# syntax=docker/dockerfile:1

# Two images: one that builds, one that runs. The first compiles the dependencies in a layer of their own, which is
# built again only when a manifest or the lock file changes.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies alone: manifests, and empty crates in place of ours.
COPY Cargo.toml Cargo.lock ./
COPY config/Cargo.toml config/
COPY middleware/Cargo.toml middleware/
COPY gateway/Cargo.toml gateway/
COPY examples/Cargo.toml examples/
COPY speed/Cargo.toml speed/
COPY scripts/empty-crates scripts/
RUN scripts/empty-crates
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --package portcullis --bin portcullis

# Ours. The empty crates are newer than a checkout may be, so cargo is told that ours have changed.
COPY config config
COPY middleware middleware
COPY gateway gateway
COPY docs docs
COPY README.md ./
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find config middleware gateway -name '*.rs' -exec touch {} + && \
    cargo build --release --locked --package portcullis --bin portcullis && \
    install -D target/release/portcullis /image/usr/local/bin/portcullis

# What runs: glibc, libgcc, root certificates, and no shell.
FROM gcr.io/distroless/cc-debian12:nonroot AS gateway
COPY --from=build /image/usr/local/bin/portcullis /usr/local/bin/portcullis

# The file is not part of the image: mount a directory with a `gateway.toml` here. A directory, so that the gateway
# sees an editor's or Kubernetes' replacement of the file and reloads.
VOLUME ["/etc/portcullis"]
EXPOSE 8080

# nonroot, by number, so that an orchestrator can tell without looking into the image.
USER 65532:65532
STOPSIGNAL SIGTERM

# Asks the admin listener of the process beside it; `[admin]` must be in the file.
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s --retries=3 CMD ["portcullis", "health"]

ENTRYPOINT ["portcullis"]
CMD ["run", "/etc/portcullis/gateway.toml"]
