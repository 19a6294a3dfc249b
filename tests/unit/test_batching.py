"""Take all that wait, handle it as one list, answer item by item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from mesh import batching
from mesh.batching import Stage, Writer
from mesh.db import BadData, Busy, CommitFailed, CommitUnknown, NotCommitted
from mesh.errors import MeshError, Reason

DOWN = NotCommitted("test", ConnectionRefusedError())
BUSY = Busy("test", TimeoutError())
UNKNOWN = CommitUnknown("test", ConnectionResetError())
BAD = BadData("test", ValueError())


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(batching, "MAX_BACKOFF_S", 0.004)


@asynccontextmanager
async def running(
    run: Callable[[], Coroutine[Any, Any, None]],
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Lists:
    """A handler that notes its lists and holds each until it is let go."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.lost: list[list[int]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.go = asyncio.Event()

    async def handle(self, items: list[int]) -> None:
        self.seen.append(items)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await self.go.wait()
        self.under_way -= 1

    def stage(self, **settings: Any) -> Stage[int]:
        return Stage("test", self.handle, lost=self.lost.append, **settings)


class TestStage:
    async def test_a_lone_item_goes_at_once_and_what_comes_meanwhile_in_one_list(self) -> None:
        lists = Lists()
        stage = lists.stage()
        async with running(stage.run):
            stage.put([1])
            await settle()
            assert lists.seen == [[1]]
            for item in (2, 3, 4):
                stage.put([item])
                await settle()
            assert lists.seen == [[1]]
            lists.go.set()
            await settle()
            assert lists.seen == [[1], [2, 3, 4]]

    async def test_no_more_lists_under_way_than_allowed(self) -> None:
        lists = Lists()
        stage = lists.stage(lists=2)
        async with running(stage.run):
            for item in range(5):
                stage.put([item])
                await settle()
            assert lists.seen == [[0], [1]]
            lists.go.set()
            await settle()
        assert lists.seen == [[0], [1], [2, 3, 4]]
        assert lists.most_under_way == 2

    async def test_what_was_put_before_it_runs(self) -> None:
        lists = Lists()
        stage = lists.stage(max_items=3)
        lists.go.set()
        stage.put([1, 2])
        stage.put([])
        stage.put([3, 4, 5, 6, 7])
        async with running(stage.run):
            await settle()
        assert lists.seen == [[1, 2, 3], [4, 5, 6], [7]]

    async def test_weight_bounds_a_list_but_not_a_lone_item(self) -> None:
        lists = Lists()
        stage = lists.stage(weigh=lambda item: item, max_weight=10)
        lists.go.set()
        stage.put([4, 6, 1, 50, 3, 7, 0])
        async with running(stage.run):
            await settle()
        assert lists.seen == [[4, 6], [1], [50], [3, 7, 0]]

    async def test_put_back_goes_first(self) -> None:
        lists = Lists()
        stage = lists.stage()
        lists.go.set()
        stage.put([3, 4])
        stage.put_back([1, 2])
        async with running(stage.run):
            await settle()
        assert lists.seen == [[1, 2, 3, 4]]

    async def test_what_is_withdrawn_is_in_no_list(self) -> None:
        lists = Lists()
        stage = lists.stage()
        async with running(stage.run):
            stage.put([1])
            await settle()
            stage.put([2, 3, 4])
            await settle()
            assert stage.withdraw(lambda item: item % 2 == 0) == [2, 4]
            assert stage.withdraw(lambda item: item == 3) == [3]
            lists.go.set()
            await settle()
            stage.put([5])
            await settle()
        assert (lists.seen, lists.lost) == ([[1], [5]], [])

    async def test_cancelled_it_finishes_what_is_under_way_and_leaves_the_rest(self) -> None:
        lists = Lists()
        stage = lists.stage()
        async with running(stage.run) as task:
            stage.put([1])
            await settle()
            stage.put([2])
            task.cancel()
            await settle()
            assert not task.done()
            lists.go.set()
            await settle()
            assert task.cancelled()
        assert lists.under_way == 0
        assert (lists.seen, lists.lost) == ([[1]], [])
        async with running(stage.run):
            await settle()
        assert lists.seen == [[1], [2]]

    async def test_no_slot_is_lost_when_it_is_cancelled_while_idle(self) -> None:
        lists = Lists()
        stage = lists.stage()
        lists.go.set()
        for item in range(3):
            async with running(stage.run):
                await settle()
            async with running(stage.run):
                stage.put([item])
                await settle()
        assert lists.seen == [[0], [1], [2]]

    async def test_a_bug_in_the_handler_loses_no_item_and_no_slot(self) -> None:
        lost: list[list[int]] = []
        calls = 0

        async def handle(_: list[int]) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError
            if calls == 2:  # something inside was cancelled, not the list
                raise asyncio.CancelledError

        stage = Stage("test", handle, lost=lost.append)
        async with running(stage.run):
            for item in (1, 2, 3):
                stage.put([item])
                await settle()
        assert (calls, lost) == (3, [[1], [2]])


class Table:
    """A database of one table: keeps what is committed, fails as it is told."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.lists: list[list[int]] = []
        self.bad: set[int] = set()
        self.fail: list[Exception | None] = []
        """What the next commits do; None is well."""
        self.go = asyncio.Event()
        self.go.set()

    async def commit(self, items: list[int]) -> Sequence[str | MeshError]:
        self.lists.append(list(items))
        await self.go.wait()
        failure = self.fail.pop(0) if self.fail else None
        if isinstance(failure, CommitUnknown):
            self.rows |= set(items)
        if failure is not None:
            raise failure
        if self.bad.intersection(items):
            raise BAD
        self.rows |= set(items)
        return [f"wrote {item}" for item in items]


def failures(results: Sequence[object]) -> list[type[MeshError] | None]:
    return [type(result) if isinstance(result, MeshError) else None for result in results]


class TestWriter:
    async def test_one_commit_for_all_that_wait_and_each_gets_its_own_results(self) -> None:
        table = Table()
        writer = Writer("test", table.commit)
        async with running(writer.run):
            table.go.clear()
            first = asyncio.create_task(writer.write([0], durable=False))
            await settle()
            later = [
                asyncio.create_task(writer.write(range(i, i + i % 3 + 1), durable=i % 2 == 0))
                for i in range(10, 40, 10)
            ]
            await settle()
            table.go.set()
            assert await first == ["wrote 0"]
            assert await asyncio.gather(*later) == [
                ["wrote 10", "wrote 11"],
                ["wrote 20", "wrote 21", "wrote 22"],
                ["wrote 30"],
            ]
        assert table.lists == [[0], [10, 11, 20, 21, 22, 30]]
        assert await writer.write([], durable=True) == []

    async def test_a_bad_row_stands_alone_and_its_neighbours_are_written(self) -> None:
        table = Table()
        table.bad = {3, 17}
        writer = Writer("test", table.commit)
        async with running(writer.run):
            results = await asyncio.gather(
                *(writer.write([2 * i, 2 * i + 1], durable=i % 2 == 0) for i in range(16))
            )
        flat = [result for pair in results for result in pair]
        assert [i for i, found in enumerate(failures(flat)) if found is BadData] == [3, 17]
        assert [r for r in flat if isinstance(r, str)] == [
            f"wrote {i}" for i in range(32) if i not in {3, 17}
        ]
        assert table.rows == set(range(32)) - {3, 17}
        assert len(table.lists) < 1 + 2 * 2 * 5

    @pytest.mark.parametrize(
        ("failure", "reason"),
        [
            (ValueError("a bug"), Reason.INTERNAL),
            (MeshError(Reason.WRONG_STATE, "no"), Reason.WRONG_STATE),
            (CommitFailed("test", ValueError()), Reason.INTERNAL),
        ],
    )
    async def test_other_failures_are_isolated_too(
        self, failure: Exception, reason: Reason
    ) -> None:
        async def commit(items: list[int]) -> list[int]:
            if 2 in items:
                raise failure
            return items

        writer = Writer("test", commit)
        async with running(writer.run):
            results = await writer.write([0, 1, 2, 3], durable=True)
        (bad,) = [result for result in results if isinstance(result, MeshError)]
        assert bad.reason is reason
        assert results == [0, 1, bad, 3]

    @pytest.mark.parametrize("kept", [0, 1, 3])
    async def test_results_never_shift(self, kept: int) -> None:
        """A result too few would tell everybody of their neighbour's money."""

        async def commit(items: list[int]) -> list[int]:
            return items[:kept] if len(items) > 1 or not kept else items

        writer = Writer("test", commit)
        async with running(writer.run):
            results = await asyncio.gather(*(writer.write([i], durable=False) for i in range(4)))
        if kept:
            assert results == [[0], [1], [2], [3]]
        else:
            assert [failures(result) for result in results] == [[MeshError]] * 4

    @pytest.mark.parametrize("failure", [DOWN, BUSY])
    async def test_what_can_be_repeated_by_the_caller_is_told_at_once(
        self, failure: CommitFailed
    ) -> None:
        table = Table()
        table.fail = [failure]
        writer = Writer("test", table.commit)
        async with running(writer.run):
            assert await writer.write([1, 2], durable=False) == [failure, failure]
            assert await writer.write([3], durable=False) == ["wrote 3"]
        assert table.lists == [[1, 2], [3]]

    @pytest.mark.parametrize("durable", [True, False])
    async def test_an_unknown_commit_is_found_out_on_its_keys(self, *, durable: bool) -> None:
        table = Table()
        table.fail = [UNKNOWN]
        writer = Writer("test", table.commit)
        async with running(writer.run):
            assert await writer.write([1, 2], durable=durable) == ["wrote 1", "wrote 2"]
        assert table.lists == [[1, 2], [1, 2]]

    @pytest.mark.parametrize("then", [UNKNOWN, DOWN, BUSY])
    async def test_one_that_cannot_be_found_out_stays_unknown(self, then: CommitFailed) -> None:
        """Never "nothing was stored": the first try may have been."""
        table = Table()
        table.fail = [UNKNOWN, then]
        writer = Writer("test", table.commit)
        async with running(writer.run):
            results = await writer.write([1, 2], durable=False)
        assert failures(results) == [CommitUnknown] * 2

    @pytest.mark.parametrize("failure", [DOWN, BUSY, UNKNOWN])
    async def test_what_must_not_be_lost_is_repeated_until_it_is_written(
        self, failure: CommitFailed
    ) -> None:
        table = Table()
        table.fail = [failure] * 5
        writer = Writer("test", table.commit)
        async with running(writer.run):
            assert await writer.write([1, 2], durable=True) == ["wrote 1", "wrote 2"]
        assert table.lists == [[1, 2]] * 6
        assert table.rows == {1, 2}

    async def test_who_can_wait_keeps_nobody_waiting(self) -> None:
        """While the database is away the durable ones are repeated and the others are told."""
        table = Table()
        table.fail = [DOWN] * 1_000
        writer = Writer("test", table.commit)
        async with running(writer.run):
            durable = asyncio.create_task(writer.write([1], durable=True))
            await settle()
            async with asyncio.timeout(1):
                assert await writer.write([2], durable=False) == [DOWN]
                assert await writer.write([3], durable=False) == [DOWN]
            assert not durable.done()
            table.fail.clear()
            assert await durable == ["wrote 1"]
        assert table.rows == {1}

    @pytest.mark.parametrize("failure", [DOWN, BUSY, UNKNOWN])
    async def test_who_can_wait_keeps_nobody_waiting_however_much_it_is(
        self, failure: CommitFailed
    ) -> None:
        """What is repeated fills every list: of who comes behind it nothing is ever tried."""
        table = Table()
        table.fail = [failure] * 1_000
        writer = Writer("test", table.commit, max_items=3)
        async with running(writer.run):
            durable = [asyncio.create_task(writer.write([i], durable=True)) for i in range(3)]
            await settle()
            async with asyncio.timeout(1):
                behind = [writer.write([i], durable=False) for i in range(10, 20)]
                answers = await asyncio.gather(*behind)
            assert {type(answer) for (answer,) in answers} <= {NotCommitted, Busy}
            assert not any(task.done() for task in durable)
            table.fail.clear()
            assert await asyncio.gather(*durable) == [["wrote 0"], ["wrote 1"], ["wrote 2"]]
            assert await writer.write([3], durable=False) == ["wrote 3"]
        assert table.rows == {0, 1, 2, 3}

    @pytest.mark.parametrize(
        ("fail", "expected"),
        [
            ([BAD, None, DOWN, DOWN], CommitUnknown),  # the first half is stored
            ([BAD, None, UNKNOWN, DOWN], CommitUnknown),
            ([BAD, DOWN], NotCommitted),  # nothing is
            ([BAD, UNKNOWN, DOWN], CommitUnknown),
            ([BAD, None, BAD, DOWN, DOWN], CommitUnknown),
            ([BAD, BAD, None, BUSY, BUSY], CommitUnknown),
            ([BAD, None, DOWN, BAD, None, DOWN], CommitUnknown),
        ],
    )
    async def test_a_list_that_is_partly_stored_is_unknown(
        self, fail: list[Exception | None], expected: type[CommitFailed]
    ) -> None:
        table = Table()
        table.fail = list(fail)
        writer = Writer("test", table.commit)
        async with running(writer.run):
            results = await writer.write([1, 2, 3, 4], durable=False)
            assert failures(results) == [expected] * 4
            table.fail = list(fail)
            assert await writer.write([1, 2, 3, 4], durable=True) == [
                f"wrote {i}" for i in (1, 2, 3, 4)
            ]

    @pytest.mark.parametrize("durable", [True, False])
    async def test_a_submitter_who_goes_away_takes_back_only_what_need_not_be_stored(
        self, *, durable: bool
    ) -> None:
        table = Table()
        table.go.clear()
        writer = Writer("test", table.commit)
        async with running(writer.run):
            under_way = asyncio.create_task(writer.write([1], durable=durable))
            await settle()
            waiting = asyncio.create_task(writer.write([2], durable=durable))
            other = asyncio.create_task(writer.write([3], durable=durable))
            await settle()
            under_way.cancel()
            waiting.cancel()
            await settle()
            table.go.set()
            assert await other == ["wrote 3"]
        # What is being written is written; what only waits has nobody left who asks for it.
        assert table.rows == ({1, 2, 3} if durable else {1, 3})

    async def test_where_everybody_went_away_nothing_is_written(self) -> None:
        table = Table()
        writer = Writer("test", table.commit)
        waiting = asyncio.create_task(writer.write([1], durable=False))
        await settle()
        waiting.cancel()
        async with running(writer.run):
            await settle()
            assert table.lists == []
            assert await writer.write([2], durable=False) == ["wrote 2"]

    async def test_a_commit_that_is_interrupted_is_unknown_and_nobody_waits_for_ever(self) -> None:
        calls = 0

        async def commit(items: list[int]) -> list[int]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError
            return items

        writer = Writer("test", commit)
        async with running(writer.run):
            (answer,) = await writer.write([1], durable=True)
            assert isinstance(answer, MeshError)
            assert answer.reason is Reason.OUTCOME_UNKNOWN
            assert await writer.write([2], durable=True) == [2]

    async def test_stopping_finishes_the_commit_under_way(self) -> None:
        table = Table()
        table.go.clear()
        writer = Writer("test", table.commit)
        async with running(writer.run) as task:
            write = asyncio.create_task(writer.write([1], durable=True))
            await settle()
            task.cancel()
            await settle()
            assert not task.done()
            table.go.set()
            assert await write == ["wrote 1"]
            await settle()
            assert task.done()

    async def test_stopping_does_not_wait_for_a_database_that_is_away(self) -> None:
        table = Table()
        table.fail = [DOWN] * 1_000
        writer = Writer("test", table.commit)
        async with running(writer.run) as task:
            write = asyncio.create_task(writer.write([1], durable=True))
            await settle()
            task.cancel()
            async with asyncio.timeout(1):
                with suppress(asyncio.CancelledError):
                    await task
        assert not write.done()
        write.cancel()

    async def test_what_piled_up_is_written_in_commits_of_a_bounded_size(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A statement over all of it would end at its timeout, and be repeated for ever."""
        monkeypatch.setattr(batching, "MAX_COMMIT_ITEMS", 10)
        table = Table()
        writer = Writer("test", table.commit, weigh=lambda item: 5 if item >= 100 else 1)
        writes = [
            asyncio.create_task(writer.write(items, durable=True))
            for items in ([1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], range(20, 40), [100], [101, 50])
        ]
        await settle()
        async with running(writer.run):
            await asyncio.gather(*writes)
        assert table.lists == [
            [1, 2, 3, 4, 5, 6, 7],
            [8, 9, 10, 11],
            list(range(20, 40)),
            [100],
            [101, 50],
        ]

    async def test_at_most_so_many_submissions_in_a_commit(self) -> None:
        table = Table()
        writer = Writer("test", table.commit, max_items=2)
        writes = [asyncio.create_task(writer.write([i, i], durable=True)) for i in range(3)]
        await settle()
        async with running(writer.run):
            await asyncio.gather(*writes)
        assert table.lists == [[0, 0, 1, 1], [2, 2]]
