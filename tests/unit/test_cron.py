"""What calls the reconciliation at night: docs/cron.md, and the files beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from typer.main import get_command

from paymeshctl.main import app
from paymeshctl.ports import DEFAULT_PORT_BASE, PORT_OFFSETS

ROOT = Path(__file__).resolve().parents[2]
CRON_MD = (ROOT / "docs" / "cron.md").read_text()
CRONTAB = (ROOT / "deploy" / "cron" / "paymesh").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
JOB: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy" / "kubernetes" / "reconcile-cronjob.yaml").read_text()
)
POD = JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]
RUN = ["paymesh", "reconcile", "run", "--date", "yesterday", "--source", "psp_stub"]


def line() -> str:
    """The crontab's one job."""
    [found] = [text for text in CRONTAB.splitlines() if re.match(r"\d", text)]
    return found


def as_cron(tmp_path: Path, exit_code: int) -> tuple[subprocess.CompletedProcess[str], str]:
    """What the line says and logs, where `paymesh` ends with this code."""
    command = line().split(maxsplit=6)[6].replace("/var/log/paymesh", str(tmp_path))
    stand_in = tmp_path / "paymesh"
    stand_in.write_text(f'#!/bin/sh\necho "told: $*"\necho why >&2\nexit {exit_code}\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done, (tmp_path / "reconcile.log").read_text()


@pytest.mark.parametrize("exit_code", [0, 1, 2])
def test_cron_mails_what_went_wrong_and_logs_everything(tmp_path: Path, exit_code: int) -> None:
    done, log = as_cron(tmp_path, exit_code)
    said = f"told: {' '.join(RUN[1:])} --target 127.0.0.1:{DEFAULT_PORT_BASE}\nwhy\n"
    assert log == said
    assert done.stdout == (f"exit {exit_code}: {said}" if exit_code else "")
    assert done.stderr == ""


def test_the_document_shows_the_line_of_the_file() -> None:
    assert line() in CRON_MD.splitlines()
    assert "%" not in line()


def test_the_commands_that_are_named_are_there() -> None:
    named = re.findall(r"paymesh reconcile (\w+)((?: --[\w-]+(?: [\w./:]+)?)*)", CRON_MD)
    assert {verb for verb, _ in named} == {"run", "report", "breaks"}
    for verb, options in named:
        command: Any = get_command(app)
        for name in ("reconcile", verb):
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", options)) <= known


def test_the_call_by_grpcurl_is_about_yesterday() -> None:
    [text] = re.findall(r"^grpcurl .*$", CRON_MD, re.MULTILINE)
    before = datetime.now(UTC).date()
    expanded = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {text}"],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout.splitlines()  # fmt: skip
    request = json_format.Parse(expanded[expanded.index("-d") + 1], pb.ReconcileRequest())
    days = {(day - timedelta(days=1)).isoformat() for day in (before, datetime.now(UTC).date())}
    assert request.settlement_date in days
    assert request.source == "psp_stub"
    service, _, method = expanded[-1].partition("/")
    assert service == pb.DESCRIPTOR.services_by_name["ReconciliationService"].full_name
    assert method in pb.DESCRIPTOR.services_by_name["ReconciliationService"].methods_by_name
    assert expanded[-2] == f"127.0.0.1:{DEFAULT_PORT_BASE + PORT_OFFSETS['ledger']}"


def test_the_files_that_are_named_are_there() -> None:
    named = re.findall(r"deploy/[\w/.-]*\w", CRON_MD)
    assert set(named) == {"deploy/cron/paymesh", "deploy/kubernetes/reconcile-cronjob.yaml"}
    assert all((ROOT / name).is_file() for name in named)


def test_compose_runs_it_once_when_told() -> None:
    service = COMPOSE["services"]["reconcile"]
    assert service["command"] == RUN
    assert service["profiles"] == ["cron"]
    assert service["restart"] == "no"
    host, _, base = service["environment"]["PAYMESH_TARGET"].partition(":")
    ledger = COMPOSE["services"][host]["environment"]["PAYMESH_LEDGER_PORT"]
    assert int(base) + PORT_OFFSETS["ledger"] == int(ledger)
    assert service["depends_on"] == {host: {"condition": "service_healthy"}}
    # No other service waits for what `up` does not start.
    assert all("reconcile" not in one.get("depends_on", {}) for one in COMPOSE["services"].values())


def test_the_cron_job_runs_the_same_one_at_a_time() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("batch/v1", "CronJob")
    assert JOB["spec"]["concurrencyPolicy"] == "Forbid"
    assert JOB["spec"]["timeZone"] == "Etc/UTC"
    assert JOB["spec"]["schedule"].split() == line().split()[:5]
    [container] = POD["containers"]
    assert container["command"] == RUN
    assert COMPOSE["services"]["reconcile"]["image"] == f"${{PAYMESH_IMAGE:-{container['image']}}}"
    environment = COMPOSE["services"]["reconcile"]["environment"]
    assert {one["name"]: one["value"] for one in container["env"]} == environment


def test_the_cron_job_repeats_only_what_another_try_may_change() -> None:
    spec = JOB["spec"]["jobTemplate"]["spec"]
    assert spec["backoffLimit"] == 3
    [rule] = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": POD["containers"][0]["name"], "operator": "In", "values": [1]
    }  # fmt: skip
    # A pod failure policy is allowed with this alone.
    assert POD["restartPolicy"] == "Never"


def test_the_cron_job_has_no_rights_to_spare() -> None:
    [container] = POD["containers"]
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    user = COMPOSE["services"]["reconcile"]["user"]
    assert f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}" == user
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert json.dumps(JOB).count("privileged") == 0
