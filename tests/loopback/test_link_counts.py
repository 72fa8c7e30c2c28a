"""What is counted over all links of a node, those that are gone too."""

from __future__ import annotations

from pathlib import Path

from tests.loopback.data_plane import BYTES
from tests.loopback.link_pair import linked


async def test_control_bytes_are_counted_on_when_their_link_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(BYTES)
    async with linked(path) as (sender, receiver):
        assert receiver.links.control_bytes == (0, 0)
        assert receiver.links.send(sender.peer, b"x" * 100)
        await sender.owner.until(lambda: ("frame", receiver.peer, b"x" * 100) in sender.owner.told)
        sent, came = receiver.links.control_bytes[0], sender.links.control_bytes[1]
        assert sent >= 100 and came >= 100
        receiver.links.close(sender.peer, is_sending=False)
        await sender.owner.told_of("closed", receiver.peer, True)
        assert receiver.links.stats() == sender.links.stats() == []
        assert receiver.links.control_bytes == (sent, 0) and sender.links.control_bytes == (0, came)
        await receiver.links.open(sender.peer, [sender.base], is_sending=False, timeout_s=5)
        assert receiver.links.send(sender.peer, b"y" * 50)
        await sender.owner.until(lambda: ("frame", receiver.peer, b"y" * 50) in sender.owner.told)
        assert receiver.links.control_bytes[0] >= sent + 50 and sender.links.control_bytes[1] >= came + 50
        assert receiver.links.uplink_bytes_per_s is None
