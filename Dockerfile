# syntax=docker/dockerfile:1
# The relay image: a node without torch. The data directory is a volume; the node runs as a user of its own.
#
#   docker build -t shardcast-node .
#   docker run -v shardcast:/data -v ./NAME.root:/etc/shardcast/NAME.root:ro -p 7481:7481 -p 7482:7482 shardcast-node \
#     --role relay --channel /etc/shardcast/NAME.root --bootstrap /ip4/ADDRESS/tcp/7481/p2p/PEER

FROM python:3.11-slim-bookworm AS build
# fastecdsa, which libp2p brings, is compiled; the compiler stays behind in this stage.
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
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgmp10 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 7481 --home-dir /data --shell /usr/sbin/nologin shardcast \
 && install -d -o shardcast -g shardcast -m 0700 /data
COPY --from=build /opt/shardcast /opt/shardcast
ENV PATH=/opt/shardcast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER shardcast
VOLUME /data
# Control (libp2p) and data plane. The API (7480) binds loopback inside the container: reach it with `docker exec`.
EXPOSE 7481 7482
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7480/readyz', timeout=2)"]
# tini reaps children, and passes SIGTERM on so that the node closes its store cleanly.
ENTRYPOINT ["tini", "--", "shardcast-node", "--data", "/data", "--p2p", "0.0.0.0:7481", "--serve", "0.0.0.0:7482"]
CMD ["--help"]
