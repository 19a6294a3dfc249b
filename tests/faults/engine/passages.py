"""What a scenario passed, and where its faults are armed."""

from __future__ import annotations

from collections import Counter

from tests.faults.engine.faults import Fault, Scenario


class Passages:
    """The points that are passed by all processes of a mesh, in one order."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.fired: list[Fault] = []
        self.passed: list[Counter[str]] = [Counter()]
        """How often each point was passed: before the first fault, after it, and so on."""
        self.over = False
        """Set when nothing more is to fail, so that all can come to rest."""

    @property
    def all_fired(self) -> bool:
        """Whether every fault has happened."""
        return len(self.fired) == len(self.scenario.faults)

    def at(self, point: str) -> Fault | None:
        """Counts a passage; the fault that happens there, if one is armed for it."""
        self.passed[-1][point] += 1
        if self.over or self.all_fired:
            return None
        armed = self.scenario.faults[len(self.fired)]
        if armed.point != point or armed.nth != self.passed[-1][point]:
            return None
        self.fired.append(armed)
        self.passed.append(Counter())
        return armed
