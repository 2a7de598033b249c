# The daemon in a small image that runs as an ordinary user.
#
#   docker build -t undercurrent .
#   docker run --rm -p 127.0.0.1:8080:8080 -v undercurrent-data:/var/lib/undercurrent undercurrent

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY src ./src
COPY benches ./benches
COPY tests ./tests
COPY schemas ./schemas
# The caches make a second build one of changed files only; the binary is copied out because they are not part of a layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin undercurrent \
    && install -D target/release/undercurrent /out/undercurrent

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/undercurrent --create-home --shell /usr/sbin/nologin undercurrent
COPY --from=build /out/undercurrent /usr/local/bin/undercurrent
# A fresh named volume starts as a copy of this folder, so promoted models find their place beside the one shipped.
COPY --chown=10001:10001 models /var/lib/undercurrent/models
USER 10001:10001
# Snapshots, the embedded log and models live here; mount a volume.
WORKDIR /var/lib/undercurrent
VOLUME /var/lib/undercurrent
EXPOSE 8080
# The process drains on SIGTERM; give it longer than `shutdown.deadline_ms`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/undercurrent"]
CMD ["run"]
