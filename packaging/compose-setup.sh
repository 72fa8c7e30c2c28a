#!/bin/sh
# What compose.yaml needs before its nodes start: a channel, the origin's identity, and the address to join at. Makes what is missing.
# Variables: CHANNEL_DIR (what all nodes may read), KEYS_DIR (the channel's keys, for the origin alone), SHARDCAST_DATA (the origin's data
# directory), ORIGIN_ADDRESS (its multiaddr without the peer id).
set -eu
umask 077
channel=${CHANNEL_DIR:-/channel}
keys=${KEYS_DIR:-/keys}
data=${SHARDCAST_DATA:-/data}

# A channel that was made when its keys still lay beside its root; the key by which that is seen goes last.
for name in demo.root demo.root.key demo.key; do
  if test -e "$channel/demo.key" && test -e "$channel/$name"; then mv "$channel/$name" "$keys/$name"; fi
done
# The root key is kept here for a demonstration only.
test -e "$keys/demo.root" || shardcast channel create demo --dir "$keys"
# The root is public.
cp "$keys/demo.root" "$channel/demo.root"
chmod 644 "$channel/demo.root"
test -e "$data/node.key" || head -c 32 /dev/urandom >"$data/node.key"
peer=$(python -c 'import pathlib, sys
from shardcast_proto.trust import SigningKey
print(SigningKey(pathlib.Path(sys.argv[1]).read_bytes()).peer)' "$data/node.key")
echo "$ORIGIN_ADDRESS/p2p/$peer" >"$channel/bootstrap"
chmod 644 "$channel/bootstrap"
