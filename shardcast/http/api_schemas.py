"""The JSON schemas of what the API says, read off the views of the facade, so that the two cannot differ."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints, is_typeddict

from shardcast.http import facade

Schema: TypeAlias = dict[str, Any]

#: The views that are answers, or parts of one.
VIEWS: Final[tuple[type, ...]] = (
    facade.VersionView,
    facade.LeaseView,
    facade.ChannelView,
    facade.ChannelStatus,
    facade.EngineVersion,
    facade.EngineView,
    facade.EnginesView,
    facade.StatusView,
    facade.PeerView,
    facade.PublishView,
    facade.EventView,
    facade.EventsView,
    facade.SpoolView,
    facade.VerifyView,
    facade.GcView,
    facade.TreeView,
    facade.HandingOutView,
    facade.StripeView,
    facade.ChildView,
    facade.LinkView,
)
_PLAIN: Final[dict[object, str]] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def view_schemas() -> dict[str, Schema]:
    """Return the schema of each view, by its name."""
    return {view.__name__: _object_schema(view) for view in VIEWS}


def reference(view: type) -> Schema:
    """Return the schema that stands for a view of `VIEWS`."""
    return {"$ref": f"#/components/schemas/{view.__name__}"}


def listed(name: str, view: type) -> Schema:
    """Return the schema of an object that holds a list of views under a name."""
    return {"type": "object", "required": [name], "properties": {name: {"type": "array", "items": reference(view)}}}


def _object_schema(view: type) -> Schema:
    hints = get_type_hints(view)
    required: frozenset[str] = view.__required_keys__  # type: ignore[attr-defined]
    return {
        "type": "object",
        "description": (view.__doc__ or "").strip(),
        "required": sorted(required),
        "properties": {name: _schema(hint) for name, hint in hints.items()},
        "additionalProperties": False,
    }


def _schema(hint: Any) -> Schema:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if is_typeddict(hint):
        return reference(hint)
    origin = get_origin(hint)
    if origin is list:
        return {"type": "array", "items": _schema(get_args(hint)[0])}
    if origin is Literal:
        return {"enum": list(get_args(hint))}
    if origin in (Union, types.UnionType):
        return {"anyOf": list(_each(hint))}
    raise TypeError(f"no schema for {hint!r}")


def _each(hint: Any) -> Iterator[Schema]:
    for part in get_args(hint):
        yield _schema(part)
