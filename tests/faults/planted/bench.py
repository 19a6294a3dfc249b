"""Where bugs are tried: a mesh in this process, of its own for each scenario."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.faults.engine import flows
from tests.faults.engine.faults import Scenario
from tests.faults.engine.flows import FLOWS
from tests.faults.engine.run import run
from tests.faults.engine.worker import open_mesh
from tests.faults.planted.nights import NIGHTS
from tests.faults.planted.plant import Bug
from tests.faults.planted.stories import STORIES, Play

_STORIES = {**STORIES, **NIGHTS}
# What never comes to rest is not waited for as long as what does.
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario went. fired: whether all its faults happened."""

    scenario: str
    problems: list[str]
    fired: bool

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Bench:
    """Belongs to one event loop, which follows tasks."""

    def __init__(self, admin_url: str, templates: Mapping[str, str]) -> None:
        """templates: migrated databases, which are copied."""
        self._admin_url = admin_url
        self._templates = templates

    async def try_bug(self, bug: Bug) -> list[Outcome]:
        """Plants the bug and plays its scenarios until one catches it, which is the last."""
        outcomes = []
        with pytest.MonkeyPatch.context() as patch:
            bug.plant(patch)
            patch.setattr(flows, "PATIENCE_S", _PATIENCE_S)
            for scenario in bug.scenarios:
                outcomes.append(await self.play(scenario))
                if catches(bug, outcomes[-1]):
                    break
        return outcomes

    async def play(self, text: str) -> Outcome:
        """One scenario on a new mesh."""
        scenario = Scenario.parse(text)
        story = _STORIES.get(scenario.flow)
        more = FLOWS[scenario.flow].settings if story is None else story.settings
        mesh, books = await open_mesh(self._admin_url, self._templates, more)
        try:
            if story is None:
                result = await run(mesh, books, scenario)
                return Outcome(text, result.problems, result.all_fired)
            passages = mesh.begin(scenario)
            try:
                problems = await story.play(Play(mesh, books))
            except Exception:  # noqa: BLE001  # whatever it is, it is the scenario's outcome
                problems = [traceback.format_exc(limit=3)]
            await mesh.end()
            return Outcome(text, problems, passages.all_fired)
        finally:
            await mesh.stop()
            await asyncio.to_thread(_close, books)


def catches(bug: Bug, outcome: Outcome) -> bool:
    """Whether what went wrong is what the bug does."""
    return any(bug.says in problem for problem in outcome.problems)


def _close(books: Any) -> None:
    for session in books:
        session.close()
