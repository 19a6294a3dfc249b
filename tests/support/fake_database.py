"""A database that keeps nothing: for the rules of a transaction that are not SQL.

The statements are played by the test. What they do together on a real PostgreSQL is said by
the tests in tests/store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from mesh.db import Database

T = TypeVar("T")


class FakeDatabase:
    """Runs what it is given, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.commits: list[tuple[str, bool]] = []
        """Each commit's name, and whether it was said to be one write."""
        self.reads: list[str] = []
        self.fails: dict[str, Exception] = {}
        """What a commit or read of this name ends with."""

    @property
    def database(self) -> Database:
        """Itself, as what it plays."""
        return cast("Database", self)

    async def commit(
        self,
        name: str,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        one_write: bool = False,
    ) -> T:
        self.commits.append((name, one_write))
        return await self._run(name, work)

    async def read(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        self.reads.append(name)
        return await self._run(name, work)

    async def _run(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        if name in self.fails:
            raise self.fails[name]
        return await work(cast("AsyncConnection", None))


class Statements:
    """Plays statements: each answers what it is told to, and remembers what it was given.

    `Statements(insert={1}, read=lambda ids: …)`: a value, or what makes one of the parameters
    without the connection.
    """

    def __init__(self, **answers: object) -> None:
        self._answers = answers
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in self._answers:
            raise AttributeError(name)

        async def statement(_: AsyncConnection, *given: Any, **named: Any) -> Any:
            given = (*given, *named.values())
            self.calls.append((name, given))
            answer = self._answers[name]
            return answer(*given) if callable(answer) else answer

        return statement

    @property
    def names(self) -> list[str]:
        """The statements in the order in which they ran."""
        return [name for name, _ in self.calls]
