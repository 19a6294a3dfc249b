"""What a bug is, and how it is put into a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from sqlalchemy import TextClause, text

Patch = pytest.MonkeyPatch


class Bug(NamedTuple):
    """A bug. number: that of the list in docs/planted-bugs.md.

    plant: puts it in; whatever is wired from then on has it. scenarios: what reveals it, as the
    engine writes scenarios, the first of them usually. says: what one of the problems must hold,
    so that a machine that is too slow is not taken for a find.
    """

    number: int
    plant: Callable[[Patch], None]
    scenarios: tuple[str, ...]
    says: str

    @property
    def name(self) -> str:
        """One line."""
        return (self.plant.__doc__ or "").partition(":")[0].partition(") ")[2]

    @property
    def breaks(self) -> str:
        """What it does, in some words."""
        words = (self.plant.__doc__ or "").partition(": ")[2]
        return " ".join(words.split())


def swap(patch: Patch, module: Any, name: str, *changes: tuple[str, str]) -> None:
    """Replaces parts of an SQL text. AssertionError if a part is not there (any more)."""
    before: TextClause = getattr(module, name)
    statement = before.text
    for old, new in changes:
        assert old in statement, f"{module.__name__}.{name} has no {old!r}"
        statement = statement.replace(old, new)
    patch.setattr(module, name, text(statement))
