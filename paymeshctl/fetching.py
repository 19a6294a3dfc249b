"""A file that comes in parts, put where it belongs: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from paymesh.psp.v1.psp_service_pb2 import GetSettlementFileResponse, SettlementFileHeader

from paymeshctl.exits import CommandError, Exit


def fetch_into(parts: Iterable[GetSettlementFileResponse], out: Path | None) -> dict[str, Any]:
    """Writes the file, and tells what it is.

    out: a file, or a folder that gets the file by its own name; None is standard output, the
    only place that can be left with a part of the file. Raises CommandError, and whatever
    `parts` raises.
    """
    arriving = iter(parts)
    first = next(arriving, None)
    if first is None or first.WhichOneof("part") != "header":
        raise CommandError(Exit.UNKNOWN, "the adapter sent no header")
    header = first.header
    if out is None:
        return _facts(header, _copy(arriving, sys.stdout.buffer), "-")
    if out.is_dir():
        # Only the name: an adapter must not choose the folder.
        out = out / (Path(header.file_name).name or "settlement-file")
    try:
        return _facts(header, _write(arriving, out), str(out))
    except OSError as error:
        raise CommandError(
            Exit.BAD_USAGE,
            f"the file can't be written: {error.strerror or 'no file'}",
            reason="FILE_NOT_WRITABLE",
            where="--out",
        ) from None


def _write(arriving: Iterable[GetSettlementFileResponse], out: Path) -> tuple[int, str]:
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            copied = _copy(arriving, stream)
        part.replace(out)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return copied


def _copy(arriving: Iterable[GetSettlementFileResponse], stream: BinaryIO) -> tuple[int, str]:
    """The size in bytes and the SHA-256 of what came."""
    size, digest = 0, hashlib.sha256()
    for one in arriving:
        stream.write(one.chunk)
        digest.update(one.chunk)
        size += len(one.chunk)
    stream.flush()
    return size, digest.hexdigest()


def _facts(header: SettlementFileHeader, copied: tuple[int, str], file: str) -> dict[str, Any]:
    size, digest = copied
    return {
        "settlement_date": header.settlement_date,
        "format": header.format,
        "revision": header.revision,
        "file_name": header.file_name,
        "file": file,
        "bytes": size,
        "sha256": digest,
    }
