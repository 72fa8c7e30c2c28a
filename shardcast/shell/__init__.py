"""The shell of the relay machine: it carries out what the machine orders and reports what happened.

`shell` is the loop between the machine and the world, `fetcher` moves chunks, `versions` knows what this node holds of each version,
`channels` keeps the trust state of each channel, `contacts` translates peer records. What leaves when is decided here only by the
token bucket; who, what and when is the machine's.
"""
