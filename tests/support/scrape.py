"""Reading metrics by HTTP, as Prometheus does."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

_POLL_S = 0.03


class Scrape:
    """What was read at one moment."""

    def __init__(self, text: str) -> None:
        self._samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 for none."""
        return sum(value for _, value in self._matching(name, labels))

    def has(self, name: str, **labels: str) -> bool:
        """Whether there is such a sample."""
        return any(True for _ in self._matching(name, labels))

    def _matching(self, name: str, labels: Mapping[str, str]) -> list[tuple[str, float]]:
        return [
            (found, value)
            for found, its, value in self._samples
            if found == name and labels.items() <= its.items()
        ]


def scrape(port: int, host: str = "127.0.0.1") -> Scrape:
    """The metrics of the process that serves them on the port."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return Scrape(answer.read().decode())


async def read(port: int) -> Scrape:
    """The same while the event loop goes on."""
    return await asyncio.to_thread(scrape, port)


async def until(port: int, condition: Callable[[Scrape], object], timeout_s: float = 10) -> Scrape:
    """The metrics as soon as the condition holds of them; fails after `timeout_s`."""
    return await asyncio.to_thread(wait_until, port, condition, timeout_s)


def wait_until(port: int, condition: Callable[[Scrape], object], timeout_s: float = 10) -> Scrape:
    """The same where there is no event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition(found := scrape(port)):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(_POLL_S)
    return found
