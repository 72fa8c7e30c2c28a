"""The command `show`."""

from __future__ import annotations

from collections.abc import Iterator

from shardcast.api_client import ApiClient, View
from shardcast_proto.errors import NotReady

from .output import print_result, share_text, size_text, table, time_text
from .selector import parse_selector
from .session import Session


def show(session: Session, version: str) -> None:
    """Print what the daemon knows of a version, with the files that its manifest lists.

    Raises:
        NotFound: No such channel or version.
    """
    api = session.client()
    view = api.version(*parse_selector(version))
    files = _files(api, view)
    document = {**view, "listing": files}
    print_result(document, [*_lines(view), *_file_lines(files)], as_json=session.as_json)


def _files(api: ApiClient, view: View) -> list[View] | None:
    """Return the files of a version in the manifest's order; None while the manifest is not at the daemon."""
    try:
        manifest = api.manifest_of(view)
    except NotReady:
        return None
    return [
        {
            "path": row.path,
            "bytes": row.size,
            "first_chunk": row.first_chunk,
            "chunks": len(manifest.file_chunks(index)),
        }
        for index, row in enumerate(manifest.files)
    ]


def _lines(view: View) -> Iterator[str]:
    pinned = ", pinned" if view.get("pinned") else ""
    yield f"version   {view['channel']}@{view['step']}, seq {view['seq']}, epoch {view['epoch']}: {view['state']}{pinned}"
    yield f"manifest  {view['manifest']}"
    if not view["chunks"]:
        yield f"size      {size_text(view['bytes'])}; the manifest is not here yet"
    else:
        chunks = f"{view['chunks']} chunks of up to {size_text(view['chunk_size'])}"
        yield f"size      {size_text(view['bytes'])} ({view['bytes']} bytes), {view['files']} files, {chunks}"
        yield f"here      {share_text(view['have_chunks'], view['chunks'])}, {view['have_chunks']} chunks"
    if view["signed_at"] is not None:
        yield f"signed    {time_text(view['signed_at'])}"
    yield f"received  {time_text(view['received_at'])}"
    if view["completed_at"] is not None:
        after_s = max(view["completed_at"] - view["received_at"], 0.0)
        yield f"complete  {time_text(view['completed_at'])}, after {after_s:.2f} s"
    if view["chunks_verified"]:
        # counted since the daemon has started
        yield (
            f"came      {size_text(view['bytes_from_origin'])} from the origin, {size_text(view['bytes_from_peers'])} from"
            f" peers; {view['chunks_verified']} chunks verified, {view['duplicate_chunks']} came twice"
        )
    if view["path"] is not None:
        yield f"path      {view['path']}"
    if view["state"] != "complete":
        yield f"because   {view['error'] or view['explain']}"


def _file_lines(files: list[View] | None) -> Iterator[str]:
    if files is None:
        return
    yield ""
    rows = [(file["bytes"], file["chunks"], file["path"]) for file in files]
    yield from table(rows, header=("BYTES", "CHUNKS", "FILE"))
