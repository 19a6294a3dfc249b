"""How the command line ends: its exit codes, and the one line that says what is wrong."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum

import typer

from mesh.errors import Code, MeshError, Reason


class Exit(IntEnum):
    """The exit codes of every verb."""

    OK = 0
    """Done; a payment succeeded."""
    NOT_DONE = 1
    """Refused by the mesh, or a payment that did not succeed, or books that don't balance, or
    something that needs attention."""
    BAD_USAGE = 2
    """Bad arguments or settings, a file that can't be read; nothing was asked of the mesh."""
    UNREACHABLE = 3
    """The mesh, or something it needs, can't be reached or started."""
    UNKNOWN = 4
    """Not known (yet): repeat the same command with the same request_id."""


HELP = (
    "Exit codes: 0 done; 1 refused, or a payment that did not succeed; 2 bad arguments or "
    "settings; 3 the mesh can't be reached or started; 4 not known yet, repeat with the same "
    "--request-id."
)

# With these, nothing is said about the effect. INTERNAL is a bug, which may strike anywhere.
_SILENT = frozenset({Reason.UNSPECIFIED, Reason.OUTCOME_UNKNOWN, Reason.INTERNAL})


class CommandError(Exception):
    """A verb that can't be carried out; the message is one sentence for people.

    where: the place in a file that is to blame, if there is one.
    """

    def __init__(
        self, exit_code: Exit, message: str, *, reason: str = "", where: str | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason
        self.where = where


def exit_code(error: MeshError) -> Exit:
    """The exit code that a failed call leads to."""
    if error.code is Code.UNAVAILABLE:
        return Exit.UNREACHABLE
    return Exit.UNKNOWN if error.reason in _SILENT else Exit.NOT_DONE


@contextmanager
def reporting(*, as_json: bool, request_id: str | None = None) -> Iterator[None]:
    """Turns the errors of a verb into one line, or one JSON object, and an exit code.

    request_id: of a verb that changes something; where its effect is not known, the line
    says how to repeat it.
    """
    try:
        yield
    except MeshError as error:
        effect_unknown = request_id is not None and error.reason in _SILENT
        _report(_facts(error, request_id, repeat=effect_unknown), as_json=as_json)
        raise typer.Exit(exit_code(error)) from error
    except CommandError as error:
        facts: dict[str, object] = {"reason": error.reason, "message": str(error)}
        if error.where is not None:
            facts["where"] = error.where
        _report(facts, as_json=as_json)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        interrupted: dict[str, object] = {"reason": "", "message": "interrupted"}
        if request_id is not None:
            interrupted |= {"request_id": request_id, "repeat": True}
        _report(interrupted, as_json=as_json)
        raise typer.Exit(Exit.NOT_DONE if request_id is None else Exit.UNKNOWN) from None


@contextmanager
def could_not_run() -> Iterator[None]:
    """Whatever goes wrong inside, foreseen or not, ends with BAD_USAGE and never with 1.

    For a verb whose 1 wakes somebody up for another reason. What was printed is flushed, for
    an output that can't be written is a failure, too.
    """
    try:
        yield
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        with suppress(OSError, ValueError):
            if not isinstance(error, typer.Exit):
                traceback.print_exc()
        _give_up_unwritable_output()
        raise typer.Exit(Exit.BAD_USAGE) from error


def _give_up_unwritable_output() -> None:
    """Else Python tries once more to write it when it ends, and ends with a code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _facts(error: MeshError, request_id: str | None, *, repeat: bool) -> dict[str, object]:
    facts: dict[str, object] = {
        "code": error.code.name,
        "reason": error.reason.value,
        "message": error.message,
    }
    if error.violations:
        facts["fields"] = [
            {"field": bad.field, "description": bad.description} for bad in error.violations
        ]
    if error.metadata:
        facts["metadata"] = dict(error.metadata)
    if error.retry_delay_s is not None:
        facts["retry_delay_s"] = error.retry_delay_s
    if request_id is not None:
        facts |= {"request_id": request_id, "repeat": repeat}
    return facts


def _report(facts: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": facts}, ensure_ascii=False) + "\n")
        return
    sys.stderr.write(f"error: {_line(facts)}\n")


def _line(facts: dict[str, object]) -> str:
    """The facts in one line: the reason, the message, the bad fields, and what to do next."""
    name = facts["reason"] or facts.get("code") or ""
    line = f"{name}: {facts['message']}" if name else str(facts["message"])
    if facts.get("where"):
        line += f" ({facts['where']})"
    fields = facts.get("fields")
    if isinstance(fields, list):
        line += "; " + "; ".join(f"{bad['field']}: {bad['description']}" for bad in fields)
    metadata = facts.get("metadata")
    if isinstance(metadata, dict):
        line += f" ({', '.join(f'{key}: {value}' for key, value in sorted(metadata.items()))})"
    if facts.get("retry_delay_s") is not None:
        line += f"; come again in {facts['retry_delay_s']} s"
    if facts.get("repeat"):
        line += f"; unknown: repeat with --request-id {facts['request_id']}"
    return line
