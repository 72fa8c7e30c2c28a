"""Which live tensors can be loaded into."""

from __future__ import annotations

import pytest

from shardcast.hotload.slots import image_bytes, slots_of
from shardcast_proto.errors import ConfigError
from tests.shardcast.hotload.weights import torch


def test_names_of_one_memory_are_one_slot():
    weight = torch.zeros(4, 4)
    slots = slots_of(
        {"a": weight, "b": torch.zeros(3), "c": weight.view(4, 4), "d": torch.zeros(0), "e": torch.zeros(0)}
    )
    assert [slot.names for slot in slots] == [("a", "c"), ("b",), ("d",), ("e",)]
    assert image_bytes(slots) == 2 * 256
    assert slots[1].view_in(torch.zeros(512, dtype=torch.uint8)).shape == (3,)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({}, "there are no tensors"),
        (5, "holds no tensors"),
        ({"w": [1.0]}, "not a torch tensor"),
        ({"w": torch.zeros(3, device="meta")}, "on the meta device"),
        ({"w": torch.zeros(3).to_sparse()}, "sparse"),
        ({"w": torch.zeros(1).expand(3)}, "it was expanded"),
        ({"w": torch.zeros(3, dtype=torch.complex64).conj()}, "lazy conjugate"),
        ({"w": torch.zeros(3, dtype=torch.complex128)}, "safetensors has none"),
    ],
)
def test_what_cannot_be_written_is_refused(target, match):
    with pytest.raises(ConfigError, match=match):
        slots_of(target)


def test_tensors_that_share_some_bytes_are_refused_and_neighbours_are_not():
    fused = torch.zeros(12, 4)
    assert len(slots_of({"q": fused[:4], "k": fused[4:8], "v": fused[8:]})) == 3
    for other in (fused[3:5], fused.t(), fused[:4].view(torch.int32), fused.view(-1)[:16]):
        with pytest.raises(ConfigError, match="lie in the same memory and are not one tensor"):
            slots_of({"q": fused[:4], "x": other})
