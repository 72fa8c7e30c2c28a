"""The weights of a version's directory, in the order in which layers are worked up.

vLLM works a layer up as soon as all of it has come; tensors of many unfinished layers would wait on the device. A name that two files have
is refused: one of them would win by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

_NUMBER: Final = re.compile(r"([0-9]+)")


def iterate_weights(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of each tensor in a directory; the tensors are on the CPU.

    All headers are read before the first tensor is yielded.

    Raises:
        ValueError: There are none, or two of one name.
        OSError: A file cannot be read.
    """
    from safetensors import safe_open

    files = sorted(Path(path).glob("*.safetensors"))
    with ExitStack() as stack:
        places: dict[str, Any] = {}
        for file in files:
            opened = stack.enter_context(safe_open(str(file), framework="pt", device="cpu"))
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                if name in places:
                    raise ValueError(f"{file} has a second tensor called {name}")
                places[name] = opened
        if not places:
            raise ValueError(f"{path} holds no tensors in *.safetensors")
        for name in sorted(places, key=layer_order):
            yield name, places[name].get_tensor(name)


def layer_order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that puts `layers.10.` behind `layers.9.`."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBER.split(name))
