"""The clients of tests/support/scenario.py: grpcurl, buf curl and the Node example."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2

from tests.support.scenario import CREATE, GET, WATCH, JsonRefusal, objects

BIN = Path(sys.executable).parent
_TIMEOUT_S = 40

Done = subprocess.CompletedProcess[str]


def ran(
    words: Sequence[str | Path], *, cwd: Path | None = None, timeout_s: float = _TIMEOUT_S
) -> Done:
    """A command, run to its end."""
    return subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def _answers(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return list(objects(done.stdout))


@dataclass(frozen=True)
class Grpcurl:
    """The contract by reflection. target: host:port of the payment service."""

    target: str

    def call(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        (answer,) = self.stream(method, request)
        return answer

    def stream(self, method: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        return _answers(self._run(method, request))

    def refused(self, method: str, request: Mapping[str, Any]) -> JsonRefusal:
        done = self._run(method, request)
        assert done.returncode != 0, done.stdout
        (status,) = objects(done.stderr)
        (info,) = [d for d in status["details"] if d["@type"].endswith("/google.rpc.ErrorInfo")]
        code = next(code.name for code in grpc.StatusCode if code.value[0] == status["code"])
        return JsonRefusal(code, info["reason"], info["domain"], info["metadata"])

    def _run(self, method: str, request: Mapping[str, Any]) -> Done:
        flags = ["-plaintext", "-max-time", "30", "-format-error", "-d", json.dumps(request)]
        return ran([BIN / "grpcurl", *flags, self.target, method])


@dataclass(frozen=True)
class BufCurl:
    """The same by `buf curl`, which asks for the schema by reflection, too."""

    target: str

    def call(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        (answer,) = self.stream(method, request)
        return answer

    def stream(self, method: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        return _answers(self._run(method, request))

    def refused(self, method: str, request: Mapping[str, Any]) -> JsonRefusal:
        done = self._run(method, request)
        assert done.returncode != 0, done.stdout
        (error,) = objects(done.stderr)
        (detail,) = [d for d in error["details"] if d["type"] == "google.rpc.ErrorInfo"]
        # Read from the bytes: buf shows them decoded beside it only where it knows the message.
        padded = detail["value"] + "=" * (-len(detail["value"]) % 4)
        info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(padded))
        return JsonRefusal(error["code"].upper(), info.reason, info.domain, dict(info.metadata))

    def _run(self, method: str, request: Mapping[str, Any]) -> Done:
        flags = ["--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(request)]
        return ran([BIN / "buf", "curl", *flags, f"http://{self.target}/{method}"])


@dataclass(frozen=True)
class Node:
    """The client of examples/node. node: the program; folder: where its packages are installed."""

    node: Path
    folder: Path
    target: str

    def call(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        (answer,) = self.stream(method, request)
        return answer

    def stream(self, method: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"payment": _camel(payment)} for payment in _answers(self._run(method, request))]

    def refused(self, method: str, request: Mapping[str, Any]) -> JsonRefusal:
        done = self._run(method, request)
        assert done.returncode == 1, done.stdout
        error = json.loads(done.stderr.splitlines()[-1])
        return JsonRefusal(error["code"], error["reason"], error["domain"], error["metadata"])

    def run(self, *words: str) -> Done:
        """main.js with these words, against the target."""
        return ran([self.node, "main.js", "--target", self.target, *words], cwd=self.folder)

    def _run(self, method: str, request: Mapping[str, Any]) -> Done:
        if method == CREATE:
            return self.run("create", json.dumps(request))
        verbs = {GET: "get", WATCH: "watch"}
        return self.run(verbs[method], request["payment_id"])


def _camel(value: object) -> Any:
    """The names of the .proto as JSON has them; what protobufjs calls a time stays."""
    if isinstance(value, dict):
        return {
            re.sub(r"_([a-z])", lambda match: match[1].upper(), name): _camel(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_camel(inner) for inner in value]
    return value
