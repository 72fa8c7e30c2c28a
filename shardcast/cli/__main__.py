"""The `shardcast` command, as `python -m shardcast.cli`."""

import sys

from .main import main

sys.exit(main())
