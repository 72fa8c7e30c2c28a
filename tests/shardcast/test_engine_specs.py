from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.engine_specs import EngineSpec, parse_engine, parse_engines, parse_time


def test_everything_has_a_default_but_the_target() -> None:
    assert parse_engine("vllm=http://127.0.0.1:8000/") == EngineSpec(
        kind="vllm", name="vllm", target="http://127.0.0.1:8000", via="auto", pause="keep"
    )
    assert parse_engine("sglang=http://[::1]:30000").pause == "retract"


def test_what_is_given_counts() -> None:
    text = "prime-rl=/run/b,channel=demo,name=p,url=http://a:1,url=https://b:2/x,token-file=/t,timeout=1.5h,pause-timeout=250ms"
    assert parse_engine(text) == EngineSpec(
        kind="prime-rl",
        name="p",
        target="/run/b",
        channel="demo",
        urls=("http://a:1", "https://b:2/x"),
        secret_file=Path("/t"),
        apply_timeout_s=5400.0,
        pause_timeout_s=0.25,
    )
    assert parse_engine("hook=/bin/x,arg=a=b,arg=c").arguments == ("a=b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "KIND=TARGET"),
        ("vllm", "KIND=TARGET"),
        ("vllm=", "KIND=TARGET"),
        ("llama=http://a:1", "KIND=TARGET"),
        ("vllm=127.0.0.1:8000", "not a URL"),
        ("vllm=ftp://a:1", "not a URL"),
        ("vllm=http://a:0", "not a URL"),
        ("vllm=http://a:99999", "not a URL"),
        ("vllm=http://a:1?x=1", "not a URL"),
        ("vllm=http://a b:1", "not a URL"),
        ("vllm=http://a:1,via=magic", "none of auto"),
        ("vllm=http://a:1,pause=retract", "none of keep"),
        ("vllm=http://a:1,secret-file=/x", "nothing that vllm takes"),
        ("vllm=http://a:1,channel=a,channel=b", "given twice"),
        ("vllm=http://a:1,channel=", "nothing that"),
        ("vllm=http://a:1,name=a b", "not a name"),
        ("vllm=http://a:1,timeout=0s", "not a time"),
        ("vllm=http://a:1,timeout=1y", "not a time"),
        ("vllm=http://a:1,token-file=relative", "absolute"),
        ("symlink=current", "absolute"),
        ("hook=bin/x", "absolute"),
        ("sglang=http://a:1,pause=in_place", "kv=keep"),
        ("webhook=http://a:1/x", "needs secret-file"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_engine(text)


@pytest.mark.parametrize("place", ["a:1", "a:99999", "a:1/x?y", "a:b", "["])
def test_a_password_in_a_url_is_refused_and_not_repeated(place: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_engine(f"vllm=http://me:hunter2@{place}")
    assert "hunter2" not in str(caught.value) and "file" in str(caught.value)


def test_two_engines_need_two_names() -> None:
    with pytest.raises(ValueError, match="two engines are called 'vllm'"):
        parse_engines(("vllm=http://a:1", "vllm=http://b:1"))
    assert [spec.name for spec in parse_engines(("vllm=http://a:1", "vllm=http://b:1,name=b"))] == ["vllm", "b"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600.0), ("30", 30.0), ("1.5h", 5400.0), ("250ms", 0.25), ("7d", 604_800.0)]
)
def test_a_time_has_a_unit(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "8d", "1 m", "m", "1e3", "٣s", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)
