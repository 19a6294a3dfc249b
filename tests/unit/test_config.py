"""Settings: read from the environment, refused with name, value and what is allowed."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from mesh.config import ServiceSettings, load, settings_config

URL = "postgresql://role:s3cret@127.0.0.1:5432/paymesh_wallet"


class Settings(ServiceSettings):
    model_config = settings_config("PAYMESH_TEST_")

    psp_deadline_ms: int = Field(default=2_500, ge=1, le=60_000)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMESH_TEST_PORT", "50051")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL", URL)


def refused(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "s3cret" not in err
    assert "Traceback" not in err
    return err.splitlines()


def test_defaults_and_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMESH_TEST_PSP_DEADLINE_MS", "1000")
    monkeypatch.setenv("PAYMESH_OTHER_HOST", "0.0.0.0")
    settings = load(Settings)
    assert (settings.host, settings.port, settings.database_url) == ("127.0.0.1", 50051, URL)
    assert (settings.psp_deadline_ms, settings.log_level, settings.drain_s) == (1000, "info", 10)


def test_they_never_change() -> None:
    settings = load(Settings)
    with pytest.raises(ValidationError):
        settings.port = 1


def test_the_password_is_not_shown() -> None:
    assert "s3cret" not in f"{load(Settings)} {load(Settings)!r}"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "integer"),
        ("PORT", "", "integer"),
        ("PORT", "-1", "greater than or equal to 0"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("HOST", "", "at least 1 character"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("MAX_CONCURRENT_CALLS", "0", "greater than or equal to 1"),
        ("METRICS_PORT", "65536", "less than or equal to 65535"),
        ("GAUGES_INTERVAL_MS", "99", "greater than or equal to 100"),
        ("TRACES_RATIO", "1.1", "less than or equal to 1"),
        ("TRACES_RATIO", "nan", "finite"),
        ("DRAIN_S", "-0.1", "greater than or equal to 0"),
        ("DRAIN_S", "nan", "0"),
        ("DRAIN_S", "inf", "less than or equal to 600"),
        ("PSP_DEADLINE_MS", "60001", "less than or equal to 60000"),
        ("PSP_DEADLINE_MS", "1.5", "integer"),
    ],
)
def test_a_bad_value(
    name: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"PAYMESH_TEST_{name}", value)
    (line,) = refused(capsys)
    assert line.startswith(f"bad setting: PAYMESH_TEST_{name} = {value!r}: ")
    assert said in line


def test_each_bad_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PAYMESH_TEST_PORT")
    monkeypatch.setenv("PAYMESH_TEST_LOG_LEVEL", "loud")
    lines = refused(capsys)
    assert [line.split()[2].rstrip(":") for line in lines] == [
        "PAYMESH_TEST_PORT",
        "PAYMESH_TEST_LOG_LEVEL",
    ]
    assert lines[0].startswith("bad setting: PAYMESH_TEST_PORT is not set: ")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://role:s3cret@host/db",
        "s3cret",
        "postgresql://role:s3cret@host:port/db",
        "postgresql://role:s3cret@[::1/db",
        " postgresql://role:s3cret@host/db",
    ],
)
def test_a_bad_database_url_is_named_and_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL", url)
    (line,) = refused(capsys)
    assert line.startswith("bad setting: PAYMESH_TEST_DATABASE_URL: ")
    assert "postgresql://" in line
