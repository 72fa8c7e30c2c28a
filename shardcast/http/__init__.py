"""The HTTP room, the only one that imports aiohttp.

The data plane (`data_server`, `data_client`, `chunk_stream`, `bucket`, `gate`) moves verified bytes between peers.
`problems` is the form of every error on HTTP. Import the modules; this package imports none of them, so that looking at
it costs nothing.
"""
