"""What a rule is, and what becomes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.adapter import Adapter


class NotKept(Exception):
    """The adapter broke the rule; the message is what was seen."""


class NotTried(Exception):
    """The adapter gave no occasion to see whether it keeps the rule; the message says why."""


class Verdict(Enum):
    """What became of a rule, as it is shown."""

    KEPT = "kept"
    NOT_KEPT = "NOT KEPT"
    NOT_TRIED = "not tried"


Check = Callable[["Adapter"], Awaitable[str]]
"""Tries a rule; answers what was seen. Raises NotKept, NotTried."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that the mesh relies on.

    name: stable, `group.rule`. holds: what must hold. why: what goes wrong otherwise.
    waits: whether trying it takes longer than its calls do.
    """

    name: str
    holds: str
    why: str
    check: Check
    waits: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Rules of one subject, in the order in which they are shown."""

    name: str
    rules: list[Rule] = field(default_factory=list)

    def rule(
        self, name: str, *, holds: str, why: str, waits: bool = False
    ) -> Callable[[Check], Check]:
        """Makes the decorated check a rule of this group."""

        def add(check: Check) -> Check:
            self.rules.append(Rule(f"{self.name}.{name}", holds, why, check, waits))
            return check

        return add

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one rule. seen: in a sentence. seconds: how long it took."""

    rule: Rule
    verdict: Verdict
    seen: str
    seconds: float
