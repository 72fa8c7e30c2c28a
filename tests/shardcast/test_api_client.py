"""The API client without a network: addresses, and the way back from a problem document."""

from __future__ import annotations

import pytest

from shardcast.api_client import ApiClient, error_of_problem
from shardcast.http.problems import problem_document
from shardcast_proto import errors
from shardcast_proto.errors import ConfigError, Conflict, NotFound, ShardcastError, TransferError


@pytest.mark.parametrize(
    ("given", "url", "is_local"),
    [
        ("http://127.0.0.1:7480", "http://127.0.0.1:7480", True),
        ("127.0.0.1:7480", "http://127.0.0.1:7480", True),
        ("localhost:1", "http://localhost:1", True),
        ("http://[::1]:7480/", "http://[::1]:7480", True),
        ("http://10.0.0.7:7480", "http://10.0.0.7:7480", False),
    ],
)
def test_an_address_is_understood(given, url, is_local):
    client = ApiClient(given)
    assert (client.url, client.is_local) == (url, is_local)


@pytest.mark.parametrize(
    "given",
    ["", "7480", "host", "https://host:1", "http://host", "http://h:99999", "http://h:1/v1", "http://u@h:1", "[::1"],
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ConfigError, match="not the address of an API"):
        ApiClient(given)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ShardcastError)]
)
def test_every_error_comes_back_as_what_it_was(kind):
    sent = kind("what happened", hint="what to do", chunk_index=7)
    back = error_of_problem(problem_document(sent))
    assert type(back) is kind
    assert (back.message, back.hint, back.facts) == ("what happened", "what to do", {"chunk_index": 7})


def test_a_code_that_is_not_known_here_keeps_its_name_in_the_family_of_its_status():
    back = error_of_problem({"type": "urn:shardcast:error:brand_new", "detail": "no", "status": 409})
    assert isinstance(back, Conflict)
    assert (back.code, back.exit_code) == ("brand_new", 6)
    assert error_of_problem({"type": "urn:shardcast:error:brand_new", "status": 404}).exit_code == 4


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (503, TransferError), (413, ConfigError), (500, ShardcastError)]
)
def test_a_refusal_of_http_itself_goes_by_its_status(status, kind):
    back = error_of_problem({"type": "about:blank", "title": "x", "detail": "too large", "status": status})
    assert (type(back), back.message) == (kind, "too large")


@pytest.mark.parametrize("document", [None, [], "text", {}, {"type": 7, "detail": None, "facts": [], "hint": 3}])
def test_a_document_of_any_shape_becomes_an_error(document):
    assert error_of_problem(document, 404).message == "the daemon answered with HTTP status 404"
