"""What commands print: aligned, exact, and harmless to a terminal."""

from __future__ import annotations

import json

import pytest

from shardcast.cli.output import print_error, print_result, printable, share_text, size_text, table, time_text
from shardcast.cli.progress import progress_bar
from shardcast_proto.errors import Conflict


def test_a_table_is_aligned_with_numbers_to_the_right():
    lines = table([(7, "x", "-"), (1200, "complete", "5 B")], header=("STEP", "STATE", "SIZE"))
    assert lines == ["STEP  STATE     SIZE", "   7  x            -", "1200  complete   5 B"]


def test_a_table_of_nothing_is_nothing():
    assert table([], header=("STEP",)) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (268435456, "256.0 MiB"),
        (62 << 30, "62.0 GiB"),
        (2 << 40, "2.0 TiB"),
    ],
)
def test_sizes_are_for_people(size, text):
    assert size_text(size) == text


def test_a_share_is_whole_only_when_all_is_there():
    assert [share_text(done, 1024) for done in (0, 1023, 1024)] == ["0%", "99%", "100%"]
    assert share_text(0, 0) == "-"


def test_a_time_is_utc():
    assert (time_text(0.9), time_text(None)) == ("1970-01-01 00:00:00Z", "-")


def test_no_text_from_elsewhere_can_move_the_cursor():
    assert printable("größe ✓") == "größe ✓"
    assert printable("a\x1b[2Jb\rc\u202e") == "a\\x1b[2Jb\\rc\\u202e"


def test_an_error_is_one_sentence_on_stderr(capsys):
    print_error(Conflict("step 1\nexists", hint="take 2"), as_json=False)
    assert capsys.readouterr() == ("", "shardcast: step 1\\nexists (take 2)\n")


def test_an_error_is_an_object_on_stdout_too_when_asked(capsys):
    print_error(Conflict("step 1 exists", digest=bytes(32), more=b"\x01", other={1}), as_json=True)
    out, err = capsys.readouterr()
    facts = {"digest": "b3:" + "00" * 32, "more": "01", "other": "{1}"}
    assert json.loads(out) == {"error": {"code": "conflict", "message": "step 1 exists", "hint": None, "facts": facts}}
    assert err == "shardcast: step 1 exists\n"


def test_a_result_is_lines_or_one_object(capsys):
    print_result({"a": 1}, ["one", "two"], as_json=False)
    print_result({"a": 1}, ["one", "two"], as_json=True)
    assert capsys.readouterr().out == 'one\ntwo\n{"a": 1}\n'


def test_progress_into_a_pipe_is_a_line_for_every_tenth(capsys):
    with progress_bar("hashing", shown=True) as update:
        for done in range(0, 1025, 64):
            update(done, 1024)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "hashing 0% of 1.0 KiB" and err.splitlines()[-1] == "hashing 100% of 1.0 KiB"
    assert len(err.splitlines()) == 11


def test_progress_that_nobody_wants_is_silent(capsys):
    with progress_bar("hashing", shown=False) as update:
        update(1, 2)
    assert capsys.readouterr() == ("", "")
