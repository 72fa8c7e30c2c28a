"""The `shardcast-node` command, as `python -m shardcast.daemon`."""

from . import main

main()
