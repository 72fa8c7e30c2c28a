#!/bin/sh
# What compose.yaml needs before its nodes start: a channel, the origin's identity, and the address to join at. Makes what is missing.
# Variables: CHANNEL_DIR, SHARDCAST_DATA (the origin's data directory), ORIGIN_ADDRESS (its multiaddr without the peer id).
set -eu
umask 077
channel=${CHANNEL_DIR:-/channel}
data=${SHARDCAST_DATA:-/data}

test -e "$channel/demo.root" || shardcast channel create demo --dir "$channel"
# The root is public, and its key is kept here for a demonstration only.
chmod 644 "$channel/demo.root"
test -e "$data/node.key" || head -c 32 /dev/urandom >"$data/node.key"
peer=$(python -c 'import pathlib, sys
from shardcast_proto.trust import SigningKey
print(SigningKey(pathlib.Path(sys.argv[1]).read_bytes()).peer)' "$data/node.key")
echo "$ORIGIN_ADDRESS/p2p/$peer" >"$channel/bootstrap"
chmod 644 "$channel/bootstrap"
