"""The verbs `pay` and `payment …`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from paymesh.payment.v1 import payment_pb2, payment_service_pb2

from paymeshctl import render
from paymeshctl.arguments import (
    ORDER_FORM,
    AsJson,
    CallerOption,
    PageSize,
    PageToken,
    TargetOption,
    TimeoutOption,
    parse_enum,
    parse_metadata,
    parse_order,
    parse_time,
)
from paymeshctl.client import DEFAULT_CALLER, Client, new_request_id, parse_target
from paymeshctl.exits import HELP, CommandError, Exit, reporting

app = typer.Typer(no_args_is_help=True, help="Look payments up.")

_OPEN = frozenset({payment_pb2.PAYMENT_STATE_PROCESSING})


def pay(
    *,
    buyer: Annotated[str, typer.Option("--buyer", help="The buyer, as you name them.")],
    orders: Annotated[
        list[str],
        typer.Option(
            "--order",
            metavar=ORDER_FORM,
            help="What one seller is paid; repeat it for more. Amounts in major units.",
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", help="The PSP's token; of the stub, tok_ok and others.")
    ] = "tok_ok",
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", help="The idempotency key; a new UUIDv7 if not given."),
    ] = None,
    notes: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="A note of yours; repeatable."),
    ] = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a payment, and wait until every order of it rests.

    The request_id is printed (on standard error) before the call: whatever happens to the
    answer, the same command with it tells how the payment stands, and charges nothing twice.
    """
    key = new_request_id() if request_id is None else request_id
    with reporting(as_json=as_json):
        request = payment_service_pb2.CreatePaymentRequest(
            request_id=key,
            buyer_id=buyer,
            payment_method=method,
            orders=[parse_order(order) for order in orders],
            metadata=parse_metadata(notes or ()),
        )
        client = Client(parse_target(target), caller=caller, timeout_s=timeout)
    sys.stderr.write(f"request_id {key}\n")
    sys.stderr.flush()
    with reporting(as_json=as_json, request_id=key), client:
        response = client.create_payment(request)
    if as_json:
        render.print_json(response)
    else:
        render.console().print(render.payment_table(response.payment))
    raise typer.Exit(_exit_code(response.payment, key))


def _exit_code(payment: payment_pb2.Payment, request_id: str) -> Exit:
    if payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED:
        return Exit.OK
    if payment.state in _OPEN:
        sys.stderr.write(f"not done yet: repeat with --request-id {request_id}\n")
        return Exit.UNKNOWN
    return Exit.NOT_DONE


@app.command(epilog=f"Example: paymesh payment get 0192f3a1b2c3845e9d0f1a2b3c4d5e6f --json. {HELP}")
def get(
    payment_id: Annotated[str | None, typer.Argument(help="The payment.")] = None,
    *,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="Or the request_id that made it.")
    ] = None,
    of_caller: Annotated[
        str | None,
        typer.Option("--of-caller", help="With --request-id: the caller that made it."),
    ] = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Show one payment."""
    with reporting(as_json=as_json):
        if (payment_id is None) == (request_id is None):
            raise CommandError(Exit.BAD_USAGE, "give either PAYMENT_ID or --request-id")
        request = payment_service_pb2.GetPaymentRequest(
            payment_id=payment_id, request_id=request_id, caller=of_caller
        )
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            response = client.get_payment(request)
    if as_json:
        render.print_json(response)
    else:
        render.console().print(render.payment_table(response.payment))


@app.command(epilog=f"Example: paymesh payment watch 0192f3a1b2c3845e9d0f1a2b3c4d5e6f. {HELP}")
def watch(
    payment_id: Annotated[str, typer.Argument(help="The payment.")],
    *,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.1, help="Seconds to watch at most; for ever if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a payment stands, and each change until it ends. One line each."""
    last = payment_pb2.Payment()
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        request = payment_service_pb2.WatchPaymentRequest(payment_id=payment_id)
        for response in client.watch_payment(request):
            last = response.payment
            if as_json:
                render.print_json(response)
            else:
                render.console().print(render.change_line(last), soft_wrap=True)
    succeeded = last.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    raise typer.Exit(Exit.OK if succeeded else Exit.NOT_DONE)


@app.command(
    epilog="Example: paymesh payment retry 0192f3a1b2c3845e9d0f1a2b3c4d5e6f --note "
    f"'the PSP put the amount right'. {HELP}"
)
def retry(
    payment_id: Annotated[str, typer.Argument(help="The payment.")],
    *,
    note: Annotated[str, typer.Option("--note", help="Why, for the records.")],
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", help="The idempotency key; a new UUIDv7 if not given."),
    ] = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Have the parked orders of a payment driven again, never under a new key at the PSP.

    From the first rung: the PSP is asked what it knows, and what it surely does not know
    is sent once more while that is safe. What was captured but not booked is booked.
    """
    key = new_request_id() if request_id is None else request_id
    with reporting(as_json=as_json):
        request = payment_service_pb2.RetryPaymentRequest(
            request_id=key, payment_id=payment_id, note=note
        )
        client = Client(parse_target(target), caller=caller, timeout_s=timeout)
    sys.stderr.write(f"request_id {key}\n")
    sys.stderr.flush()
    with reporting(as_json=as_json, request_id=key), client:
        response = client.retry_payment(request)
    if as_json:
        render.print_json(response)
    else:
        render.console().print(render.payment_table(response.payment))
    raise typer.Exit(_exit_code(response.payment, key))


@app.command("list", epilog=f"Example: paymesh payment list --seller alice --state failed. {HELP}")
def list_(
    *,
    buyer: Annotated[str, typer.Option("--buyer", help="Only of this buyer.")] = "",
    seller: Annotated[
        str, typer.Option("--seller", help="Only with an order of this seller.")
    ] = "",
    state: Annotated[
        str | None, typer.Option("--state", help="Only in this state, for example succeeded.")
    ] = None,
    created_from: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only made at or after this.")
    ] = None,
    created_to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Only made before this.")
    ] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """List payments, newest first. Times are ISO 8601, UTC where they name no zone."""
    with reporting(as_json=as_json):
        request = payment_service_pb2.ListPaymentsRequest(
            buyer_id=buyer,
            seller_id=seller,
            create_time_from=parse_time(created_from),
            create_time_to=parse_time(created_to),
            page_size=page_size,
            page_token=page_token,
        )
        if state is not None:
            number = parse_enum(payment_pb2.PaymentState, state, "payment state")
            request.state = payment_pb2.PaymentState.ValueType(number)
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            response = client.list_payments(request)
    if as_json:
        render.print_json(response)
        return
    render.console().print(render.payments_table(response.payments))
    if response.next_page_token:
        typer.echo(f"more: --page-token {response.next_page_token}")
