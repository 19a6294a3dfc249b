"""Spans as they are written, and that nothing of it is there when nobody asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from uuid import UUID

import pytest

from mesh import ids, tracing
from mesh.spans import Recorder
from mesh.tracing import Part
from tests.support.spans import Span, spans_in

SERVICES = ("payment_svc", "executor_svc", "wallet_svc", "ledger_svc", "psp_stub")


def new_part(problem: str = "") -> Part:
    payment = ids.payment_id("default", uuid.uuid4().hex)
    order = ids.order_id(payment, 0)
    return Part(payment, order, ids.first_charge_id(order), problem)


class Written:
    """A recorder and what it wrote."""

    def __init__(self, file: Path, ratio: float = 1.0) -> None:
        self.file = file
        self.recorder = Recorder("test_svc", file, ratio)

    def close(self) -> list[Span]:
        self.recorder.close()
        return spans_in([self.file])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "spans.jsonl"


@pytest.fixture
def written(file: Path) -> Written:
    return Written(file)


def call(written: Written, payment_id: UUID, traceparent: str = "", *, new: bool = True) -> None:
    written.recorder.payment(
        payment_id, time.time_ns(), new=new, attributes={"a": "b"}, traceparent=traceparent
    )


def test_a_payments_trace_is_its_id_and_its_root_is_computed(written: Written) -> None:
    part = new_part()
    call(written, part.payment_id)
    (root,) = written.close()
    assert root.trace_id == part.payment_id.hex
    assert root.span_id == part.payment_id.hex[16:]
    assert root.parent_id == ""
    assert (root.service, root.name, root.attributes["a"]) == ("test_svc", "CreatePayment", "b")


def test_a_repeated_call_hangs_below_the_one_that_made_the_payment(written: Written) -> None:
    part = new_part()
    call(written, part.payment_id)
    call(written, part.payment_id, new=False)
    root, again = written.close()
    assert again.trace_id == root.trace_id
    assert again.parent_id == root.span_id
    assert again.span_id != root.span_id


def test_trips_and_steps_of_an_order_hang_below_its_first_trip(written: Written) -> None:
    part = new_part()
    assert part.operation_id is not None
    written.recorder.order(part, 2.0, first=True, attributes={"paymesh.attempt": 0})
    written.recorder.step("execute", 1.0, part)
    written.recorder.order(part, 0.5, first=False, attributes={"paymesh.attempt": 1})
    first, step, second = written.close()
    assert {s.trace_id for s in (first, step, second)} == {part.payment_id.hex}
    assert first.span_id == part.operation_id.hex[16:]
    assert first.parent_id == part.payment_id.hex[16:]
    assert step.parent_id == second.parent_id == first.span_id
    assert second.attributes["paymesh.attempt"] == "1"
    assert 1.9e9 < first.end_ns - first.start_ns < 3e9


def test_a_list_has_a_trace_of_its_own_linked_with_the_items_both_ways(written: Written) -> None:
    parts = [new_part(), new_part("DECLINED"), new_part()]
    written.recorder.handled("credit", time.time_ns() - 10_000_000, parts)
    spans = written.close()
    (of_list,) = [s for s in spans if s.name == "credit list"]
    items = {s.trace_id: s for s in spans if s.name == "credit"}
    assert items.keys() == {part.payment_id.hex for part in parts}
    assert of_list.trace_id not in items
    assert set(of_list.links) == {(s.trace_id, s.span_id) for s in items.values()}
    for part in parts:
        item = items[part.payment_id.hex]
        assert item.links == [(of_list.trace_id, of_list.span_id)]
        assert item.problem == part.problem
        assert part.order_id is not None
        assert item.attributes["paymesh.order_id"] == part.order_id.hex
        assert item.end_ns - item.start_ns >= 10_000_000


def test_a_list_of_hundreds_is_linked_with_all_of_them(written: Written) -> None:
    parts = [new_part() for _ in range(500)]
    written.recorder.handled("book", time.time_ns(), parts)
    (of_list,) = [s for s in written.close() if s.name == "book list"]
    assert len(set(of_list.links)) == 500


def test_lists_are_in_different_traces_also_after_a_payments_span(written: Written) -> None:
    part = new_part()
    written.recorder.handled("a", time.time_ns(), [part])
    call(written, part.payment_id)
    written.recorder.handled("b", time.time_ns(), [part])
    traces = {s.name: s.trace_id for s in written.close()}
    assert len({traces["a list"], traces["b list"], part.payment_id.hex}) == 3


@pytest.mark.parametrize(
    ("traceparent", "link"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-01", ("a" * 32, "b" * 16)),
        (f"01-{'a' * 32}-{'b' * 16}-01-more", ("a" * 32, "b" * 16)),
        (f"ff-{'a' * 32}-{'b' * 16}-01", None),
        (f"00-{'0' * 32}-{'b' * 16}-01", None),
        (f"00-{'a' * 32}-{'0' * 16}-01", None),
        (f"00-{'a' * 31}-{'b' * 16}-01", None),
        (f"00-{'x' * 32}-{'b' * 16}-01", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_callers_span_is_linked(
    written: Written, traceparent: str, link: tuple[str, str] | None
) -> None:
    call(written, new_part().payment_id, traceparent)
    (root,) = written.close()
    assert root.links == ([] if link is None else [link])


@pytest.mark.parametrize(("ratio", "least", "most"), [(0, 0, 0), (0.3, 220, 380), (1, 1000, 1000)])
def test_the_same_share_of_payments_is_traced_everywhere(
    tmp_path: Path, ratio: float, least: int, most: int
) -> None:
    parts = [new_part() for _ in range(1000)]
    chosen = []
    for name in ("a", "b"):
        written = Written(tmp_path / name, ratio)
        for part in parts:
            written.recorder.step("x", 0, part)
        written.recorder.handled("y", time.time_ns(), parts)
        spans = written.close()
        chosen.append({s.trace_id for s in spans if s.name == "x"})
        assert {s.trace_id for s in spans if s.name == "y"} == chosen[-1]
        assert [len(s.links) for s in spans if s.name == "y list"] == [len(chosen[-1])] * bool(
            ratio
        )
    assert chosen[0] == chosen[1]
    assert least <= len(chosen[0]) <= most


def test_what_can_not_be_told_harms_nobody(written: Written) -> None:
    written.recorder.handled("x", time.time_ns(), [None])  # type: ignore[list-item]
    written.recorder.step("y", 0, new_part())
    assert [s.name for s in written.close()] == ["y"]


def test_a_file_is_appended_to(file: Path) -> None:
    for _ in range(2):
        written = Written(file)
        written.recorder.step("x", 0, new_part())
        written.recorder.close()
    assert len(spans_in([file])) == 2


def test_a_file_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        tracing.start("x", tmp_path / "nowhere" / "spans.jsonl", 1.0)
    assert tracing.recorder() is None


def test_whoever_does_not_trace_does_not_import_the_sdk() -> None:
    program = (
        "import sys\n"
        + "".join(f"import {service}.main\n" for service in SERVICES)
        + "from mesh import tracing\n"
        "found = sorted(name for name in sys.modules if name.startswith('opentelemetry'))\n"
        "assert tracing.recorder() is None\n"
        "print(','.join(found))\n"
    )
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PAYMESH_")}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == "\n"
