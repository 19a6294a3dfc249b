"""The stub keeps every rule, and adapters that are unlike it and right are not accused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, MeshError, Reason
from mesh.status import to_status
from tests.conformance import report
from tests.conformance.adapter import CannotRun
from tests.conformance.kit import RULES, named, run
from tests.conformance.options import Options, Tokens
from tests.conformance.proxy import Context, Items, Outcomes, Proxy, Results
from tests.conformance.rule import Result, Verdict
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import own_database, serving

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub

KEY_MEMORY_S = 6.0
OPTIONS = Options(list_length=150, pending_s=10.0, key_memory_s=KEY_MEMORY_S)
CHEAP = [rule for rule in RULES if not rule.waits]


@pytest.fixture(scope="module")
async def stub(postgres_server: PostgresServer) -> AsyncIterator[PspServiceAsyncStub]:
    """A stub with short waits, and a memory that is longer than they are."""
    url = own_database(postgres_server)
    async with serving(url, slow_ms=1_500, pending_ms=1_500, key_memory_s=KEY_MEMORY_S) as stub:
        yield stub


async def results(adapter: Proxy, options: Options = OPTIONS, *names: str) -> dict[str, Result]:
    async with adapter.serving() as target:
        trial = await run(target, options, named(names) if names else CHEAP)
    return {result.rule.name: result for result in trial.results}


def seen(told: dict[str, Result], verdict: Verdict) -> dict[str, str]:
    return {name: result.seen for name, result in told.items() if result.verdict is verdict}


async def test_the_stub_keeps_every_rule(stub: PspServiceAsyncStub) -> None:
    told = await results(Proxy(stub), OPTIONS, *(rule.name for rule in RULES))
    assert not seen(told, Verdict.NOT_KEPT)
    assert seen(told, Verdict.NOT_TRIED).keys() == {"money.other_exponent"}
    assert len(told) == len(RULES) == len({rule.name for rule in RULES})


class TellsOneByOneAndBackwards(Proxy):
    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        async for outcomes in super().outcomes(items):
            for outcome in reversed(outcomes):
                yield [outcome]


class LooksUpBackwards(Proxy):
    def find(self, results: Results) -> Results:
        return results[::-1]


class LeavesConcurrentCallsOpen(Proxy):
    """A second call under a key that is under way hears an error without a reason."""

    def __init__(self, inner: PspServiceAsyncStub) -> None:
        super().__init__(inner)
        self.under_way: Counter[str] = Counter()

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        busy = {item.idempotency_key for item in items if self.under_way[item.idempotency_key]}
        keys = Counter({item.idempotency_key for item in items})
        self.under_way += keys
        try:
            error = MeshError(Reason.UNSPECIFIED, "in use", peer_code=Code.ABORTED)
            if busy:
                yield [
                    pb.ChargeOutcome(idempotency_key=key, error=to_status(error)) for key in busy
                ]
            await asyncio.sleep(0.05)
            rest = [item for item in items if item.idempotency_key not in busy]
            async for outcomes in super().outcomes(rest):
                yield outcomes
        finally:
            self.under_way -= keys


class AnswersEqualItemsOnce(Proxy):
    def answer(self, outcomes: Outcomes) -> Outcomes:
        first: Outcomes = []
        for outcome in outcomes:
            if outcome not in first:
                first.append(outcome)
        return first


class RepeatsNoReference(Proxy):
    def find(self, results: Results) -> Results:
        for result in results:
            if result.HasField("captured"):
                result.captured.psp_reference = ""
        return results


class TellsNoFee(Proxy):
    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("captured"):
                outcome.captured.ClearField("fee")
        return outcomes


class ChargesEverything(Proxy):
    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        del told.currencies[:]


class CountsOtherwise(Proxy):
    """Its own units are its own matter: it converts them rightly."""

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        for currency in told.currencies:
            if currency.currency_code in ("ISK", "CLP"):
                currency.exponent = 2


@pytest.mark.parametrize(
    "adapter",
    [
        TellsOneByOneAndBackwards,
        LooksUpBackwards,
        LeavesConcurrentCallsOpen,
        AnswersEqualItemsOnce,
        RepeatsNoReference,
        TellsNoFee,
        ChargesEverything,
        CountsOtherwise,
    ],
)
async def test_an_adapter_may_differ_from_the_stub(
    stub: PspServiceAsyncStub, adapter: type[Proxy]
) -> None:
    told = await results(adapter(stub))
    assert not seen(told, Verdict.NOT_KEPT)
    assert ("money.other_exponent" in seen(told, Verdict.KEPT)) is (adapter is CountsOtherwise)
    assert ("outcomes.fee" in seen(told, Verdict.NOT_TRIED)) is (adapter is TellsNoFee)


# --- what can't be seen is not called kept ---------------------------------------------


async def test_without_a_payment_method_a_behaviour_is_not_tried(
    stub: PspServiceAsyncStub,
) -> None:
    none = Tokens(
        declined="", slow="", timeout_captured="", timeout_nothing="", error_captured="",
        unavailable="", pending_success="", pending_failure="",
    )  # fmt: skip
    told = await results(
        Proxy(stub), replace(OPTIONS, tokens=none, key_memory_s=None), *names_that_need_more()
    )
    assert seen(told, Verdict.NOT_TRIED).keys() == set(names_that_need_more())
    assert "--token-slow" in told["lists.slow_holds_up_nobody"].seen
    assert "--key-memory-s" in told["lookup.forgotten"].seen


def names_that_need_more() -> list[str]:
    return [
        *("keys.repeated_decline", "keys.other_payment_method", "keys.window"),
        *("lookup.declined", "lookup.pending", "lookup.forgotten"),
        *("lists.slow_holds_up_nobody", "lists.error_ends_no_list"),
        *(rule.name for rule in named(["lost", "pending"])),
        "outcomes.decline_category",
    ]


async def test_a_payment_method_that_the_adapter_does_not_know_proves_nothing(
    stub: PspServiceAsyncStub,
) -> None:
    strange = Tokens(
        slow="pm_1", timeout_captured="pm_2", timeout_nothing="pm_3", error_captured="pm_4",
        unavailable="pm_5", pending_success="pm_6", pending_failure="pm_7",
    )  # fmt: skip
    names = ["lists.slow_holds_up_nobody", "lists.error_ends_no_list", "lost", "pending"]
    told = await results(Proxy(stub), replace(OPTIONS, tokens=strange), *names)
    assert seen(told, Verdict.NOT_TRIED).keys() == told.keys()
    assert "'pm_1'" in told["lists.slow_holds_up_nobody"].seen


async def test_a_behaviour_that_does_not_show_proves_nothing(stub: PspServiceAsyncStub) -> None:
    tame = Tokens(**dict.fromkeys(Tokens.__slots__, "tok_ok"))
    names = [
        *("keys.repeated_decline", "lookup.declined", "lookup.pending"),
        *("lists.slow_holds_up_nobody", "lists.error_ends_no_list", "lost", "pending"),
        "outcomes.decline_category",
    ]
    told = await results(Proxy(stub), replace(OPTIONS, tokens=tame), *names)
    assert seen(told, Verdict.NOT_TRIED).keys() == told.keys()


class DeclinesWhatItCannot(Proxy):
    """A real PSP's sandbox: no yen, no dinars and nothing above a million."""

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        kept = [c for c in told.currencies if c.currency_code in ("EUR", "USD", "BHD")]
        del told.currencies[:]
        told.currencies.extend(kept)

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            amount = outcome.captured.amount
            if amount.amount_minor > 100_000_000 or amount.currency_code == "BHD":
                outcome.declined.category = payment_pb2.DECLINE_CATEGORY_NOT_SUPPORTED
        return outcomes


async def test_amounts_that_are_not_charged_are_not_called_kept(
    stub: PspServiceAsyncStub,
) -> None:
    told = await results(DeclinesWhatItCannot(stub), OPTIONS, "money")
    assert seen(told, Verdict.KEPT).keys() == {"money.two_decimals"}
    assert not seen(told, Verdict.NOT_KEPT)
    smaller = replace(OPTIONS, largest_minor=99_999_999)
    told = await results(DeclinesWhatItCannot(stub), smaller, "money.largest")
    assert "--largest-minor" in told["money.largest"].seen


class WritesToTheTerminal(Proxy):
    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("declined"):
                outcome.declined.code = "\x1b[2J[red]no[/red]\n" + "x" * 100_000
        return outcomes


async def test_what_an_adapter_writes_is_shown_short_and_without_control_characters(
    stub: PspServiceAsyncStub, capsys: pytest.CaptureFixture[str]
) -> None:
    async with WritesToTheTerminal(stub).serving() as target:
        trial = await run(target, OPTIONS, named(["outcomes.decline_category"]))
    report.print_table(trial)
    shown = capsys.readouterr().out
    assert trial.results[0].verdict is Verdict.NOT_KEPT
    assert "?[2J[red]no[/red]?xxx" in shown.replace("\n", "").replace(" ", "")
    assert "\x1b" not in shown
    assert len(shown) < 3_000


# --- what can't be tried at all --------------------------------------------------------


async def test_nobody_there() -> None:
    port = free_port()
    with pytest.raises(CannotRun, match=f"nothing answers at 127.0.0.1:{port}"):
        await run(f"127.0.0.1:{port}", replace(OPTIONS, connect_s=0.5))


async def test_a_payment_method_that_is_not_captured(stub: PspServiceAsyncStub) -> None:
    options = replace(OPTIONS, tokens=Tokens(ok="tok_visa"))
    with pytest.raises(CannotRun, match=r"'tok_visa'.*INVALID_PAYMENT_METHOD.*--token-ok"):
        await results(Proxy(stub), options)


async def test_another_service() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(CannotRun, match=r"does not serve paymesh\.psp\.v1\.PspService"):
            await run(f"127.0.0.1:{port}", OPTIONS)
    finally:
        await server.stop(0)


class Dies(Proxy):
    """Serves the first charges and then nothing any more."""

    served = 0

    async def Charge(
        self, request: pb.ChargeRequest, context: Context
    ) -> AsyncIterator[pb.ChargeResponse]:
        self.served += 1
        if self.served > 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        async for response in super().Charge(request, context):
            yield response


async def test_an_adapter_that_fails_every_call_keeps_nothing_about_charges(
    stub: PspServiceAsyncStub,
) -> None:
    told = await results(Dies(stub), OPTIONS, "keys.repeated", "lists", "money.two_decimals")
    assert (
        seen(told, Verdict.NOT_KEPT).keys()
        | {"lists.none_twice", "lists.none_strange"}
        | {"lists.own_outcome"}
        == told.keys()
    )
    assert "UNAVAILABLE" in told["keys.repeated"].seen
