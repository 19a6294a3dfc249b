"""What stages and writers count, read as the registry tells it."""

from __future__ import annotations

import asyncio
import uuid

from prometheus_client import generate_latest

from mesh import metrics
from mesh.batching import Stage, Writer
from mesh.db import BadData, CommitUnknown, NotCommitted
from tests.support.scrape import Scrape
from tests.unit.test_batching import Lists, running, settle


def told() -> Scrape:
    return Scrape(generate_latest().decode())


async def test_what_waits_and_what_is_under_way_is_told_while_it_is() -> None:
    name, lists = uuid.uuid4().hex, Lists()
    stage: Stage[int] = Stage(name, lists.handle, lost=lists.lost.append, lists=1)
    async with running(stage.run):
        assert told().value("paymesh_stage_lists_under_way", stage=name) == 0
        stage.put([1, 2, 3])
        await settle()
        stage.put([4, 5])
        await settle()
        now = told()
        assert now.value("paymesh_stage_lists_under_way", stage=name) == 1
        assert now.value("paymesh_stage_waiting", stage=name) == 2
        lists.go.set()
        await settle()
        now = told()
    assert now.value("paymesh_stage_waiting", stage=name) == 0
    assert now.value("paymesh_stage_lists_under_way", stage=name) == 0
    assert now.value("paymesh_stage_list_items_count", stage=name) == 2
    assert now.value("paymesh_stage_list_items_sum", stage=name) == 5
    assert now.value("paymesh_stage_list_items_bucket", stage=name, le="2.0") == 1
    assert now.value("paymesh_stage_list_seconds_count", stage=name) == 2
    assert now.value("paymesh_stage_lists_lost_total", stage=name) == 0


async def test_a_list_that_was_lost_for_a_bug_is_told() -> None:
    name = uuid.uuid4().hex
    lost: list[int] = []

    async def handle(_: list[int]) -> None:
        raise LookupError

    stage: Stage[int] = Stage(name, handle, lost=lost.extend)
    async with running(stage.run):
        stage.put([1])
        await settle()
    assert lost == [1]
    assert told().value("paymesh_stage_lists_lost_total", stage=name) == 1


async def test_commits_are_told_by_what_came_of_them() -> None:
    name = uuid.uuid4().hex
    errors: list[Exception | None] = [
        None,
        NotCommitted("test", ConnectionRefusedError()),
        CommitUnknown("test", ConnectionResetError()),  # and once more on its keys: stored
        None,
        BadData("test", ValueError()),
        LookupError(),
    ]

    async def commit(items: list[int]) -> list[int]:
        error = errors.pop(0)
        if error is not None:
            raise error
        return items

    writer: Writer[int, int] = Writer(name, commit)
    async with running(writer.run):
        for _ in range(5):
            await writer.write([7], durable=False)
    assert not errors
    now = told()
    found = {
        result: now.value("paymesh_writer_commits_total", writer=name, result=result)
        for result in ("stored", "not_stored", "unknown", "refused", "failed")
    }
    assert found == {"stored": 2, "not_stored": 1, "unknown": 1, "refused": 1, "failed": 1}
    assert now.value("paymesh_writer_commit_items_sum", writer=name) == 6
    assert now.value("paymesh_writer_commit_seconds_count", writer=name) == 6


def test_a_number_that_is_asked_for_is_the_newest_one_of_its_name() -> None:
    name = f"test_{uuid.uuid4().hex}"
    metrics.ask_gauge(name, "about", lambda: 1)
    metrics.ask_gauge(name, "about", lambda: 2)
    assert told().value(name) == 2


async def test_counting_a_list_costs_nobody_a_wait() -> None:
    """The gauges are asked in another thread while the loop goes on."""
    lists = Lists()
    stage: Stage[int] = Stage(uuid.uuid4().hex, lists.handle, lost=lists.lost.append)
    lists.go.set()
    async with running(stage.run):
        reading = asyncio.create_task(asyncio.to_thread(told))
        stage.put(list(range(10)))
        await settle()
        assert len(lists.seen) == 1
        await reading
