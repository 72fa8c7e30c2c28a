"""The read routes of the Hugging Face Hub: `huggingface_hub` and what stands on it download a channel from a node.

    HF_ENDPOINT=http://127.0.0.1:7480 hf download shardcast/NAME

A channel is the model repository `shardcast/NAME`. Its revisions:

    main       the newest version that is complete here
    1200       the newest version with step 1200
    40 digits  the version whose manifest's digest begins so: what is a commit there

The first two can mean another version a moment later, and a client asks for a file twice, first for its validator, then for its bytes. So a
file at such a revision is answered by a redirect to the same file at the commit; a client cannot mix two versions.

A client knows what is missing by `X-Error-Code`, shows `X-Error-Message`, and asks again after a 503 with `Retry-After`, which is what a
version gets that is still on its way. It never does so after a 409.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import quote

from aiohttp import web

from shardcast.http.api_answers import FIELDS, Answer, Resource, json_response
from shardcast.http.api_files import FileSender
from shardcast.http.api_target import EXPAND, RECURSIVE, Target
from shardcast.http.facade import NodeFacade, VersionView
from shardcast.http.hub_tree import hub_files, hub_tree
from shardcast.http.problems import problem_response
from shardcast_proto.errors import ConfigError, NotFound, NotReady, ShardcastError, StoreError
from shardcast_proto.ids import DIGEST_PREFIX
from shardcast_proto.manifest import Manifest

#: The organisation that all channels belong to.
OWNER: Final = "shardcast"
MAIN: Final = "main"

Missing = Literal["RepoNotFound", "RevisionNotFound", "EntryNotFound"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_STEP: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_ERROR_CHARACTERS_MAX: Final = 1000
_RETRY_AFTER_S: Final = 1


class _NotThere(NotFound):
    """The Hub's kinds of not found.

    Attributes:
        kind: What is not there.
        commit: The commit that has no such file, else None.
    """

    def __init__(self, kind: Missing, error: ShardcastError, commit: str | None = None) -> None:
        super().__init__(error.message, hint=error.hint, **error.facts)
        self.kind: Missing = kind
        self.commit = commit


class HubRoutes:
    """Finds the resource that a target of the Hub names."""

    def __init__(self, facade: NodeFacade, files: FileSender) -> None:
        self._facade = facade
        self._files = files

    def find(self, target: Target) -> Resource | None:
        """Return the resource's answers by method; None when the target is none of the Hub's."""
        answer = self._answer_to(target)
        return None if answer is None else {"GET": _in_hub_words(answer)}

    def _answer_to(self, target: Target) -> Answer | None:
        match target.segments:
            case ("api", "models", "shardcast", channel):
                return lambda request: self._answer_model(channel, MAIN)
            case ("api", "models", "shardcast", channel, "revision", revision):
                return lambda request: self._answer_model(channel, revision)
            case ("api", "models", "shardcast", channel, "tree", revision, *parts):
                below, is_recursive, has_commits = "/".join(parts), target.flag(RECURSIVE), target.flag(EXPAND)
                return lambda request: self._answer_tree(
                    channel, revision, below=below, is_recursive=is_recursive, has_commits=has_commits
                )
            case ("shardcast", channel, "resolve", revision, *parts) if parts:
                return lambda request: self._answer_file(request, channel, revision, "/".join(parts))
            case ("api", "models", owner, *_) if owner != OWNER:
                return _no_repository
            case ("api", "datasets" | "spaces" | "kernels", *_):
                return _no_repository
            case ("datasets" | "spaces", _, _, "resolve", *_) | (_, _, "resolve", *_) | (_, "resolve", *_):
                return _no_repository
        return None

    async def _answer_model(self, channel: str, revision: str) -> web.StreamResponse:
        view = self._find(channel, revision)
        files = await asyncio.to_thread(hub_files, await self._manifest(view))
        document = {
            "id": f"{OWNER}/{channel}",
            "modelId": f"{OWNER}/{channel}",
            "author": OWNER,
            "sha": commit_of(view),
            "lastModified": _date(view),
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "siblings": [{"rfilename": file["path"], "size": file["size"], "blobId": file["oid"]} for file in files],
            "shardcast": {
                "channel": view["channel_id"],
                "seq": view["seq"],
                "step": view["step"],
                "manifest": view["manifest"],
            },
        }
        return await asyncio.to_thread(json_response, document, headers=_commit_fields(view))

    async def _answer_tree(
        self, channel: str, revision: str, *, below: str, is_recursive: bool, has_commits: bool
    ) -> web.StreamResponse:
        view = self._find(channel, revision)
        manifest = await self._manifest(view)
        entries = await asyncio.to_thread(hub_tree, manifest, below, is_recursive=is_recursive)
        if below and not entries:
            error = NotFound(f"step {view['step']} has no directory {below[:200]!r}", path=below[:200])
            raise _NotThere("EntryNotFound", error, commit_of(view))
        commit = {"id": commit_of(view), "title": f"step {view['step']}", "date": _date(view)}
        more: Mapping[str, object] = {"lastCommit": commit} if has_commits else {}
        document = [{**entry, **more} for entry in entries]
        return await asyncio.to_thread(json_response, document, headers=_commit_fields(view))

    async def _answer_file(
        self, request: web.BaseRequest, channel: str, revision: str, path: str
    ) -> web.StreamResponse:
        view = self._find(channel, revision)
        try:
            opened = await self._facade.open_file(channel, view["manifest"], path)
        except NotFound as error:
            self._find(channel, commit_of(view))  # a version that was deleted just now lacks no file
            raise _NotThere("EntryNotFound", error, commit_of(view)) from error
        try:
            fields = {
                **_commit_fields(view),
                # clients name the file in their cache after it, and a colon is not for every file system
                "X-Linked-ETag": opened.etag.replace(":", "-"),
                "X-Linked-Size": str(opened.size),
            }
            if revision == commit_of(view):
                return await self._files.send_file(request, opened, fields)
            place = f"/{OWNER}/{quote(channel)}/resolve/{commit_of(view)}/{quote(path)}"
            return web.Response(status=307, headers={**FIELDS, **fields, "Location": place})
        finally:
            opened.close()

    def _find(self, channel: str, revision: str) -> VersionView:
        """Return the complete version at a revision."""
        if channel not in {view["name"] for view in self._facade.channels()}:
            known = ", ".join(f"{OWNER}/{view['name']}" for view in self._facade.channels())
            error = NotFound(f"channel {channel[:80]!r} is not followed here", hint=f"this node has {known}")
            raise _NotThere("RepoNotFound", error)
        with _named("RevisionNotFound"):
            view = self._main(channel) if revision == MAIN else self._facade.version(channel, _selector(revision))
        if view["state"] == "complete":
            return view
        says = f"step {view['step']} of channel {channel} is {view['state']} here: {view['explain']}"
        if view["state"] == "gone":
            raise _NotThere("RevisionNotFound", NotFound(says, hint="keep more versions with --keep, or pin it"))
        raise StoreError(says) if view["state"] == "failed" else NotReady(says)

    def _main(self, channel: str) -> VersionView:
        views = self._facade.versions(channel)
        newest = next((view for view in views if view["state"] == "complete"), views[0] if views else None)
        if newest is None:
            raise NotReady(f"channel {channel} has no version here yet")
        return newest

    async def _manifest(self, view: VersionView) -> Manifest:
        # a thread reads it: with its 65,536 files a manifest would keep the loop for a good part of a second
        return await asyncio.to_thread(Manifest.decode, self._facade.manifest_bytes(view["channel"], view["manifest"]))


def commit_of(view: VersionView) -> str:
    """Return what stands for the commit of a version: the first 40 hex digits of its manifest's digest."""
    return view["manifest"].removeprefix(DIGEST_PREFIX)[:40]


def _selector(revision: str) -> str:
    if _COMMIT.fullmatch(revision):
        return DIGEST_PREFIX + revision
    if _STEP.fullmatch(revision):
        return revision
    raise NotFound(f"{revision[:80]!r} is no revision of a channel", hint=f"{MAIN}, a step, or a commit of 40 digits")


@contextmanager
def _named(kind: Missing) -> Iterator[None]:
    try:
        yield
    except (NotFound, ConfigError) as error:
        raise _NotThere(kind, error) from error


def _in_hub_words(answer: Answer) -> Answer:
    """Return the answer whose errors a client of the Hub understands."""

    async def answer_or_error(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await answer(request)
        except ShardcastError as error:
            # on a line of its own, whatever the message has in it
            text = " ".join(error.describe().split()).encode("ascii", "replace").decode()[:_ERROR_CHARACTERS_MAX]
            fields = {"X-Error-Message": text}
            if isinstance(error, _NotThere):
                fields["X-Error-Code"] = error.kind
                if error.commit is not None:
                    fields["X-Repo-Commit"] = error.commit
            status = 503 if isinstance(error, NotReady) else error.http_status
            if status == 503:
                fields["Retry-After"] = str(_RETRY_AFTER_S)
            return problem_response(error, status=status, headers=fields)

    return answer_or_error


async def _no_repository(request: web.BaseRequest) -> web.StreamResponse:
    error = NotFound("this node has no such repository", hint=f"its channels are model repositories {OWNER}/NAME")
    raise _NotThere("RepoNotFound", error)


def _commit_fields(view: VersionView) -> dict[str, str]:
    return {"X-Repo-Commit": commit_of(view)}


def _date(view: VersionView) -> str:
    moment = datetime.fromtimestamp(view["received_at"], UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
