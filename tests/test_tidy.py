"""The style of the tree, held by a test: sizes, names and words.

Each rule is a function from a source file to its complaints; one test per rule asks every file. Raising a number here
is a decision about style, not a fix.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("proto/shardcast_proto", "relay/shardcast_relay", "shardcast")
#: Folders whose Python is ours. Anything else at the top level (an environment, a build) is not looked at.
FOLDERS = (*PACKAGES, "tests", "benches", "demos", "tools")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
POSITIONAL_PARAMETERS_MAX = 4

#: A module is named after its noun; these name nothing.
EMPTY_NAMES = {"common", "handler", "handlers", "helper", "helpers", "manager", "misc", "util", "utils"}
#: Unfinished work belongs in an issue, a home folder on one machine only.
FORBIDDEN = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|/root/|/home/[a-z]")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".sh", ".lock", ".yml", ".yaml", ".json", ".cfg", ".ini", ""}
#: What ends the subject of a docstring's first sentence: behind it, "and" joins details.
OF_WHAT = re.compile(r"[.,:;!?]\s|\s(?:of|that|which|who|for|between|in|with|as|from|on|by|to)\s")
#: Functions whose signature a library has fixed.
GIVEN_SIGNATURES = {"settings_customise_sources"}
#: Rooms whose tests run on virtual time, or on none.
PURE_TESTS = ("tests/proto", "tests/relay", "tests/sim")


def test_a_file_has_at_most_500_lines():
    assert _complaints(_long_file) == []


def test_a_function_has_at_most_70_lines():
    assert _complaints(_long_functions) == []


def test_a_function_takes_at_most_four_positional_parameters():
    assert _complaints(_crowded_signatures) == []


def test_a_module_says_first_what_single_noun_it_holds():
    assert _complaints(_module_docstring, *PACKAGES) == []


def test_a_module_has_a_name_that_says_something():
    assert [str(path) for path in _python_files() if path.stem in EMPTY_NAMES] == []


def test_an_exception_is_never_swallowed_in_silence():
    assert _complaints(_silent_handlers, *PACKAGES) == []


def test_a_check_that_must_hold_is_not_an_assert():
    assert _complaints(_asserts, *PACKAGES) == []


def test_a_test_uses_fakes_and_no_mocks():
    assert _complaints(_mocks, "tests") == []


def test_a_test_of_a_pure_room_never_sleeps():
    assert _complaints(_sleeps, *PURE_TESTS) == []


def test_no_text_names_unfinished_work_or_one_machine():
    assert [complaint for path in _text_files() for complaint in _forbidden_words(path)] == []


@pytest.mark.parametrize(
    "module", ["shardcast", "shardcast.cli", "shardcast.vllm_plugin", "shardcast_proto", "shardcast_relay"]
)
def test_a_client_command_and_a_plugin_start_without_the_heavy_libraries(module):
    heavy = {"aiohttp", "libp2p", "numpy", "pydantic", "safetensors", "torch", "trio", "vllm"}
    script = f"import sys, {module}; print(*sorted(set(sys.modules) & {heavy!r}))"
    path = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "relay", "."))
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr


# --- rules ---


def _long_file(path: Path) -> Iterator[str]:
    count = len(_source(path).splitlines())
    if count > FILE_LINES_MAX:
        yield f"{count} lines"


def _long_functions(path: Path) -> Iterator[str]:
    for function in _functions(path):
        count = (function.end_lineno or function.lineno) - function.lineno + 1
        if count > FUNCTION_LINES_MAX:
            yield f"line {function.lineno}: {function.name} has {count} lines"


def _crowded_signatures(path: Path) -> Iterator[str]:
    for function in _functions(path):
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        is_ours = function.name not in GIVEN_SIGNATURES and "tests" not in path.parts
        if count > POSITIONAL_PARAMETERS_MAX and is_ours:
            yield f"line {function.lineno}: {function.name} takes {count} positional parameters"


def _module_docstring(path: Path) -> Iterator[str]:
    text = ast.get_docstring(_tree(path))
    if text is None:
        yield "no module docstring"
        return
    subject = OF_WHAT.split(text, maxsplit=1)[0]
    if re.search(r"\band\b", subject):
        yield f"two nouns live here: {subject!r}"


def _silent_handlers(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield f"line {node.lineno}: a bare except"
        elif (
            isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"} and _is_empty(node.body)
        ):
            yield f"line {node.lineno}: {node.type.id} is swallowed"


def _is_empty(body: list[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)


def _asserts(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Assert) and not _only_narrows(node.test):
            yield f"line {node.lineno}: assert vanishes under python -O"


def _only_narrows(test: ast.expr) -> bool:
    """Say whether an assertion only tells the type checker what earlier code has already made sure of."""
    if isinstance(test, ast.BoolOp):
        return all(_only_narrows(value) for value in test.values)
    if isinstance(test, ast.Compare):
        return all(isinstance(value, ast.Constant) and value.value is None for value in test.comparators)
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance"


def _mocks(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(name.startswith(("unittest.mock", "mock")) for name in names):
            yield f"line {node.lineno}: imports a mock"


def _sleeps(path: Path) -> Iterator[str]:
    for number, line in enumerate(_source(path).splitlines(), 1):
        if "sleep(" in line:
            yield f"line {number}: sleeps"


def _forbidden_words(path: Path) -> Iterator[str]:
    for number, line in enumerate(_source(path).splitlines(), 1):
        if found := FORBIDDEN.search(line):
            yield f"{path.relative_to(ROOT)}: line {number}: {found.group()}"


# --- files ---


def _complaints(rule: Callable[[Path], Iterator[str]], *under: str) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {complaint}" for path in _python_files(*under) for complaint in rule(path)]


def _python_files(*under: str) -> list[Path]:
    return sorted(path for folder in under or FOLDERS for path in (ROOT / folder).rglob("*.py"))


def _text_files() -> list[Path]:
    """Every text file of ours but this one, which has to spell what it forbids."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for folder in (*FOLDERS, "proto", ".ci") for path in (ROOT / folder).rglob("*") if path.is_file()]
    unique = {path for path in top + below if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts}
    return sorted(unique - {Path(__file__).resolve()})


@cache
def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_source(path), filename=str(path))


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
