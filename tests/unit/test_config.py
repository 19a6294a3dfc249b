"""Settings: read from the environment, refused with name, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError
from sqlalchemy import make_url

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


def test_the_url_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PAYMESH_TEST_DATABASE_URL")
    for content in (URL, f"{URL}\n", f"{URL}\r\n"):
        (tmp_path / "url").write_bytes(content.encode())
        monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL_FILE", str(tmp_path / "url"))
        assert load(Settings).database_url == URL


def test_the_password_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret: p@ss/w%rd é\n")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL", "postgresql://role@host:1/db?sslmode=require")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    url = make_url(load(Settings).database_url)
    assert url.password == "s3cret: p@ss/w%rd é"
    assert (url.username, url.host, url.port, url.database) == ("role", "host", 1, "db")
    assert url.query == {"sslmode": "require"}


def test_both_may_stand_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://role@127.0.0.1:5432/paymesh_wallet")
    (tmp_path / "password").write_text("s3cret")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL", "")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    assert load(Settings).database_url == URL


@pytest.mark.parametrize("kind", ["URL_FILE", "PASSWORD_FILE"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("a folder", "Is a directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"s3cret\ns3cret\n", "one line"),
        (b"s3cret\x00", "one line of printable characters"),
        (b"s3cret\xff", "UTF-8"),
        (b"s3cret" * 10_000, "more than 8192 bytes"),
    ],
)
def test_a_file_without_a_secret_is_refused(
    *,
    kind: str,
    content: bytes | str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "secret"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
    if kind == "URL_FILE":
        monkeypatch.delenv("PAYMESH_TEST_DATABASE_URL")
    else:
        monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL", "postgresql://role@host/db")
    monkeypatch.setenv(f"PAYMESH_TEST_DATABASE_{kind}", str(path))
    (line,) = refused(capsys)
    assert line.startswith(f"bad setting: PAYMESH_TEST_DATABASE_{kind}: ")
    assert repr(str(path)) in line
    assert said in line


def test_a_file_that_may_not_be_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.delenv("PAYMESH_TEST_DATABASE_URL")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL_FILE", "/run/secrets/wallet")
    # Tests may run as root, who is denied nothing.
    monkeypatch.setattr(Path, "open", denied)
    (line,) = refused(capsys)
    assert "can't read '/run/secrets/wallet': Permission denied" in line


@pytest.mark.parametrize(
    ("url", "files", "named"),
    [
        (URL, ["URL_FILE"], "PAYMESH_TEST_DATABASE_URL_FILE: is set beside"),
        (URL, ["PASSWORD_FILE"], "PAYMESH_TEST_DATABASE_PASSWORD_FILE: is set, and the URL"),
        ("", ["URL_FILE", "PASSWORD_FILE"], "PAYMESH_TEST_DATABASE_PASSWORD_FILE: is set, and"),
        ("", ["PASSWORD_FILE"], "PAYMESH_TEST_DATABASE_PASSWORD_FILE: needs"),
    ],
)
def test_what_is_said_twice_or_by_half_is_refused(
    *,
    url: str,
    files: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_text(URL)
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL", url)
    for kind in files:
        monkeypatch.setenv(f"PAYMESH_TEST_DATABASE_{kind}", str(tmp_path / "secret"))
    (line,) = refused(capsys)
    assert line.startswith(f"bad setting: {named}")


def test_a_file_that_holds_no_url_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("s3cret")
    monkeypatch.delenv("PAYMESH_TEST_DATABASE_URL")
    monkeypatch.setenv("PAYMESH_TEST_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("PAYMESH_TEST_PORT", "http")
    port, url = refused(capsys)
    assert port.startswith("bad setting: PAYMESH_TEST_PORT = 'http': ")
    assert url.startswith("bad setting: PAYMESH_TEST_DATABASE_URL_FILE: ")


def test_how_many_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Settings).replica_counts() == {}
    monkeypatch.setenv("PAYMESH_TEST_REPLICAS", "payment=2,psp_stub=1")
    assert load(Settings).replica_counts() == {"payment": 2, "psp_stub": 1}


@pytest.mark.parametrize("value", ["payment", "payment=0", "payment=2;wallet=1", "2", "a=1 b=2"])
def test_replicas_that_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("PAYMESH_TEST_REPLICAS", value)
    (line,) = refused(capsys)
    assert line.startswith(f"bad setting: PAYMESH_TEST_REPLICAS = {value!r}")
