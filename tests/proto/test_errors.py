"""The error families: who acts, by exit code and HTTP status."""

from __future__ import annotations

import pytest

from shardcast_proto import errors

TABLE = {
    errors.LocalProtocolError: (70, 500),
    errors.InvariantViolated: (70, 500),
    errors.RemoteProtocolError: (1, 502),
    errors.IntegrityError: (5, 502),
    errors.TrustError: (10, 403),
    errors.NotFound: (4, 404),
    errors.Conflict: (6, 409),
    errors.TransferError: (7, 503),
    errors.NotReady: (7, 409),
    errors.StoreError: (8, 507),
    errors.HotLoadError: (9, 409),
    errors.ConfigError: (2, 400),
    errors.DaemonUnreachable: (3, 503),
}


@pytest.mark.parametrize(("family", "codes"), TABLE.items(), ids=lambda item: getattr(item, "__name__", ""))
def test_a_family_has_its_exit_code_and_status(family, codes):
    assert (family.exit_code, family.http_status) == codes


def test_every_family_is_in_the_table_with_a_code_of_its_own():
    named = [value for value in vars(errors).values() if isinstance(value, type)]
    families = {value for value in named if issubclass(value, errors.ShardcastError)} - {errors.ShardcastError}
    assert families == set(TABLE)
    assert len({family.code for family in families}) == len(families)


def test_an_error_describes_itself_with_its_hint():
    error = errors.NotFound("no such step", hint="try ls", step=7)
    assert error.describe() == "no such step (try ls)"
    assert str(error) == error.message == "no such step"
    assert error.facts == {"step": 7}
    assert errors.NotFound("no such step").describe() == "no such step"
