# syntax=docker/dockerfile:1
# The relay image: a node without torch. The data directory is a volume; the node runs as a user of its own.
#
#   docker build -t shardcast-node .
#   docker run -v shardcast:/data -v ./NAME.root:/channel/NAME.root:ro -p 7481:7481 -p 7482:7482 shardcast-node \
#     --role relay --channel /channel/NAME.root --announce-p2p ADDRESS:7481 --announce-serve ADDRESS:7482 \
#     --bootstrap /ip4/ADDRESS/tcp/7481/p2p/PEER
#
# A swarm of five on one host: compose.yaml.

FROM python:3.11-slim-bookworm AS build
# fastecdsa, which libp2p brings, is compiled; the compiler stays behind in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libgmp-dev \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/shardcast
ENV PATH=/opt/shardcast/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# The locked dependencies first: this layer is rebuilt only when the lock changes.
COPY requirements.lock .
RUN pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md ./
COPY proto proto
COPY relay relay
COPY shardcast shardcast
RUN pip install --no-deps .

FROM python:3.11-slim-bookworm
# Debian keeps one version of a package in a release, so there is none to pin.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgmp10 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 7481 --user-group --home-dir /data --shell /usr/sbin/nologin shardcast \
 && install -d -o shardcast -g shardcast -m 0700 /data \
 && install -d -o shardcast -g shardcast -m 0755 /channel \
 && install -d -o shardcast -g shardcast -m 0700 /keys
COPY --from=build /opt/shardcast /opt/shardcast
# Settings as variables, so that a flag of `docker run` or a variable of compose replaces one.
ENV PATH=/opt/shardcast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SHARDCAST_DATA=/data SHARDCAST_P2P=0.0.0.0:7481 SHARDCAST_SERVE=0.0.0.0:7482
# By number: an engine that insists on a user other than root can see that this is one.
USER 7481:7481
VOLUME /data
# Control (libp2p) and data plane. The API (7480) binds loopback inside the container: reach it with `docker exec`.
EXPOSE 7481 7482
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["shardcast", "check"]
# tini reaps children, and passes SIGTERM on so that the node closes its store cleanly.
ENTRYPOINT ["tini", "--", "shardcast-node"]
CMD ["--help"]
