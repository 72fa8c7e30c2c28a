"""The form of errors on HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web

from shardcast.http.problems import problem_document, problem_of_fault, problem_of_status, problem_response
from shardcast_proto import errors


def body_of(response: web.Response) -> dict:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_a_document_says_type_title_status_detail_hint_and_facts():
    error = errors.Conflict("step 7 exists with other content", hint="publish it with --rewind", step=7)
    assert problem_document(error) == {
        "type": "urn:shardcast:error:conflict",
        "title": "conflict",
        "status": 409,
        "detail": "step 7 exists with other content",
        "hint": "publish it with --rewind",
        "facts": {"step": 7},
    }


def test_a_document_has_no_empty_members():
    assert set(problem_document(errors.NotFound("no such channel"))) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ShardcastError)],
)
def test_every_error_of_ours_has_the_status_of_its_family(kind):
    response = problem_response(kind("something"))
    document = body_of(response)
    assert response.status == document["status"] == kind.http_status
    assert document["type"] == f"urn:shardcast:error:{kind.code}"
    assert response.content_type == "application/problem+json"


def test_facts_of_any_kind_become_json():
    error = errors.StoreError(
        "x",
        digest=bytes(32),
        path=Path("a") / "b",
        ratio=float("nan"),
        nested={"list": [1, b"\x01", None], 2: (True,)},
        odd=object,
        broken="\ud800",
        long="y" * 5000,
    )
    facts = body_of(problem_response(error))["facts"]
    assert facts["digest"] == "b3:" + "00" * 32
    assert facts["path"] == "a/b"
    assert facts["ratio"] == "nan"
    assert facts["nested"] == {"list": [1, "01", None], "2": [True]}
    assert facts["broken"] == "?"
    assert len(facts["long"]) == 1000


def test_a_fact_cannot_stand_in_for_the_status():
    document = problem_document(errors.NotFound("x", status=200, type="about:blank"))
    assert (document["status"], document["type"]) == (404, "urn:shardcast:error:not_found")


def test_a_refusal_of_http_itself_carries_its_headers():
    response = problem_of_status(405, "this port answers GET", headers={"Allow": "GET"})
    assert (response.status, response.headers["Allow"]) == (405, "GET")
    assert body_of(response)["title"] == "method not allowed"


def test_a_fault_of_ours_tells_nothing_but_that_it_happened():
    response = problem_of_fault()
    assert response.status == 500
    assert set(body_of(response)) == {"type", "title", "status", "detail"}


def test_a_problem_has_the_fields_of_every_other_answer():
    fields = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "shardcast"}
    for response in (
        problem_response(errors.NotFound("no such channel")),
        problem_of_status(405, "no", headers={"Allow": "GET"}),
        problem_of_fault(),
    ):
        assert {name: response.headers.get(name) for name in fields} == fields
