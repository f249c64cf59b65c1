# Built from this folder: `docker build -t tidewatch:local .`
FROM rust:1.95-bookworm AS build
# What the Kafka client's C library is built with.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libssl-dev pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p tidewatch

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /var/lib/tidewatch --create-home tidewatch \
    && install -d -o tidewatch /var/lib/tidewatch/tidewatch-data
COPY --from=build /src/target/release/tidewatch /usr/local/bin/tidewatch
COPY topologies /var/lib/tidewatch/topologies
USER tidewatch
WORKDIR /var/lib/tidewatch
ENTRYPOINT ["tidewatch"]
