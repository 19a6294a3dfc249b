"""Where bugs are tried: a mesh in this process, of its own for each scenario."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Never

import pytest

from tests.faults.engine import flows
from tests.faults.engine import run as engine
from tests.faults.engine.attempt import Flow
from tests.faults.engine.faults import Scenario
from tests.faults.engine.passages import Passages
from tests.faults.engine.worker import new_mesh
from tests.faults.planted import stories
from tests.faults.planted.nights import NIGHTS
from tests.faults.planted.plant import Bug
from tests.faults.planted.stories import FLOWS, STORIES, Play, Story

_STORIES = {**STORIES, **NIGHTS}
_FLOWS = {**flows.FLOWS, **FLOWS}
# What never comes to rest is not waited for as long as what does.
_PATIENCE_S = 4.0


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
            patch.setattr(stories, "AT_REST_S", _PATIENCE_S)
            for scenario in bug.scenarios:
                outcomes.append(await self.play(scenario))
                if catches(bug, outcomes[-1]):
                    break
        return outcomes

    async def play(self, text: str) -> Outcome:
        """One scenario on a new mesh."""
        scenario = Scenario.parse(text)
        story = _STORIES.get(scenario.flow)
        flow = _FLOWS[scenario.flow] if story is None else _flow(story)
        mesh, books = await new_mesh(self._admin_url, self._templates, flow)
        try:
            if story is not None:
                return await _play(story, Play(mesh, books), scenario)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine, "FLOWS", _FLOWS)
                result = await engine.run(mesh, books, scenario)
            return Outcome(text, result.problems, result.all_fired)
        finally:
            await mesh.stop()
            await asyncio.to_thread(_close, books)


def _flow(story: Story) -> Flow:
    """What makes its mesh."""

    def begin() -> Never:
        raise TypeError("a story is played, not attempted")

    return Flow(begin, story.settings, story.replicas)


async def _play(story: Story, play: Play, scenario: Scenario) -> Outcome:
    passages = Passages(scenario)
    play.mesh.begin(passages)
    try:
        problems = await story.play(play)
    except Exception:  # noqa: BLE001  # whatever it is, it is the scenario's outcome
        problems = [traceback.format_exc(limit=3)]
    await play.mesh.end()
    return Outcome(str(scenario), problems, passages.all_fired)


def catches(bug: Bug, outcome: Outcome) -> bool:
    """Whether what went wrong is what the bug does."""
    return any(bug.says in problem for problem in outcome.problems)


def _close(books: Any) -> None:
    for session in books:
        session.close()
