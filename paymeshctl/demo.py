"""The verb `demo`: a mesh of its own, three checkouts, the proof in the books, and the night."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2, payment_service_pb2
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb

from mesh.embedded import EmbeddedPostgresError, default_data_dir
from mesh.errors import MeshError
from paymeshctl import night, render
from paymeshctl.client import Client, Target, new_request_id
from paymeshctl.exits import CommandError, Exit, exit_code, reporting
from paymeshctl.night import Night
from paymeshctl.ports import HOST, free_port_base
from paymeshctl.proof import Books, Story, problems, proof_lines, way_table
from paymeshctl.supervisor import Mesh, MeshConfig, StartError
from paymeshctl.up import STUB_SETTINGS, start_failed

# A lost answer is found out after the PSP's deadline and a look-up: seconds, not tens.
_SETTLED_WITHIN_S = 20.0
_POLL_INTERVAL_S = 0.2


@dataclass(frozen=True)
class _Checkout:
    """What is paid, and how it must end. orders: seller, amount, commission, in cents."""

    title: str
    method: str
    orders: tuple[tuple[str, int, int], ...]
    expected: payment_pb2.PaymentState.ValueType


_CHECKOUTS = (
    _Checkout(
        "a checkout with three sellers",
        "tok_ok",
        (("ada-books", 2_500, 250), ("bea-bikes", 14_999, 1_500), ("cem-coffee", 890, 89)),
        payment_pb2.PAYMENT_STATE_SUCCEEDED,
    ),
    _Checkout(
        "a declined card",
        "tok_declined",
        (("ada-books", 4_200, 420),),
        payment_pb2.PAYMENT_STATE_FAILED,
    ),
    _Checkout(
        "a PSP that took the money and whose answer was lost",
        "tok_timeout_captured",
        (("bea-bikes", 3_300, 330),),
        payment_pb2.PAYMENT_STATE_SUCCEEDED,
    ),
)


def demo(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print what happened as JSON.")] = False
) -> None:
    """Start a mesh in a temporary folder, pay three times, prove the books, reconcile the day.

    Takes seconds and leaves nothing behind. Exits with 0 only if every payment ended as it
    must, the books balance, and the PSP's file differs by what was seeded only.
    """

    def say(text: str) -> None:
        if not as_json:
            typer.echo(text)

    with reporting(as_json=as_json), _folder() as folder:
        mesh = _mesh(folder)
        say("starting PostgreSQL and five services …")
        started = time.monotonic()
        try:
            mesh.start()
        except StartError as error:
            raise start_failed(error) from error
        try:
            say(f"ready after {time.monotonic() - started:.1f} s")
            target = Target(HOST, mesh.port("payment") - 1)
            with Client(target, caller="demo") as client:
                stories = [_pay(client, checkout) for checkout in _CHECKOUTS]
                books = _read_books(client, stories)
                the_night = night.spend(client)
        except MeshError as error:
            logs = folder / "logs"
            raise CommandError(
                exit_code(error), f"{error.message}; the logs are in {logs}", reason=error.reason
            ) from error
        finally:
            mesh.stop()
        wrong = problems(stories, books) + night.problems(the_night)
        show(stories, books, the_night, wrong, as_json=as_json)
        if wrong:
            raise CommandError(
                Exit.NOT_DONE, f"{'; '.join(wrong)}; the logs are in {folder / 'logs'}"
            )


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the demo's data, removed if all went well and kept for its logs if not."""
    base = Path(tempfile.mkdtemp(prefix="paymesh-demo-"))
    if os.geteuid() == 0:
        # PostgreSQL runs as somebody else and has to pass through.
        base.chmod(0o711)
    try:
        folder = default_data_dir(base / "data").path
    except EmbeddedPostgresError as error:
        raise CommandError(Exit.BAD_USAGE, str(error)) from error
    left: tuple[Path, ...] = (folder, base)
    try:
        yield folder
    except CommandError:
        left = (folder / "postgres",)
        raise
    finally:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)


def _mesh(folder: Path) -> Mesh:
    # On its own PostgreSQL, whatever the environment says: a demo leaves no trace in yours.
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")
    }
    try:
        port_base = free_port_base()
    except OSError as error:
        raise CommandError(Exit.UNREACHABLE, str(error)) from error
    return Mesh(MeshConfig(folder, port_base, environment, settings=STUB_SETTINGS))


def _pay(client: Client, checkout: _Checkout) -> Story:
    """Pays, waits until the payment is settled, and follows it through the services."""
    request = payment_service_pb2.CreatePaymentRequest(
        request_id=new_request_id(),
        buyer_id="buyer-1",
        payment_method=checkout.method,
        orders=[
            payment_service_pb2.NewOrder(
                seller_id=seller,
                amount=Money(amount_minor=amount, currency_code="EUR"),
                commission=Money(amount_minor=commission, currency_code="EUR"),
            )
            for seller, amount, commission in checkout.orders
        ],
    )
    started = time.monotonic()
    payment = client.create_payment(request).payment
    while (
        payment.state == payment_pb2.PAYMENT_STATE_PROCESSING
        and time.monotonic() - started < _SETTLED_WITHIN_S
    ):
        time.sleep(_POLL_INTERVAL_S)
        payment = client.get_payment(
            payment_service_pb2.GetPaymentRequest(payment_id=payment.payment_id)
        ).payment
    return Story(
        title=checkout.title,
        method=checkout.method,
        expected=checkout.expected,
        payment=payment,
        seconds=time.monotonic() - started,
        journals={
            order.order_id: list(
                client.list_journals(
                    ledger_pb.ListJournalsRequest(order_id=order.order_id)
                ).journals
            )
            for order in payment.orders
        },
        movements={
            movement.order_id: movement
            for order in payment.orders
            for movement in client.list_movements(
                wallet_pb.ListMovementsRequest(seller_id=order.seller_id)
            ).movements
        },
    )


def _read_books(client: Client, stories: list[Story]) -> Books:
    sellers = sorted({order.seller_id for story in stories for order in story.payment.orders})
    return Books(
        wallets=[
            client.get_wallet(wallet_pb.GetWalletRequest(seller_id=seller)).wallet
            for seller in sellers
        ],
        trial_balance=client.get_trial_balance(ledger_pb.GetTrialBalanceRequest()),
    )


def show(
    stories: list[Story], books: Books, the_night: Night, wrong: list[str], *, as_json: bool
) -> None:
    """Prints what happened and the proof. wrong: what is not as it must be."""
    if as_json:
        facts = {
            "payments": [render.to_json(story.payment) for story in stories],
            "wallets": [render.to_json(wallet) for wallet in books.wallets],
            "trial_balance": render.to_json(books.trial_balance),
            "run": render.to_json(the_night.run),
            "breaks": [render.to_json(one) for one in the_night.breaks],
            "problems": wrong,
        }
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    console = render.console()
    for story in stories:
        console.print(way_table(story))
    console.print(render.wallets_table(books.wallets))
    console.print(render.trial_balance_table(books.trial_balance.rows))
    for line in (*proof_lines(stories, books), "", *night.lines(the_night)):
        console.print(line)
