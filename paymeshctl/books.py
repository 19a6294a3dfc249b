"""The verbs `wallet` and `ledger …`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb

from mesh.money import format_minor
from paymeshctl import render
from paymeshctl.arguments import (
    AsJson,
    CallerOption,
    PageSize,
    PageToken,
    TargetOption,
    TimeoutOption,
    parse_enum,
    parse_time,
)
from paymeshctl.client import DEFAULT_CALLER, Client, parse_target
from paymeshctl.exits import HELP, Exit, reporting

app = typer.Typer(no_args_is_help=True, help="Read the ledger.")

AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME", help="Only what was written up to this (ISO 8601)."),
]


def wallet(
    seller: Annotated[str, typer.Argument(help="Whose wallet.")],
    *,
    movements: Annotated[
        bool, typer.Option("--movements", help="Show what moved, newest first.")
    ] = False,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what a seller owns. A seller who was never paid has no balances."""
    moved: wallet_pb.ListMovementsResponse | None = None
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        response = client.get_wallet(wallet_pb.GetWalletRequest(seller_id=seller))
        if movements:
            moved = client.list_movements(
                wallet_pb.ListMovementsRequest(
                    seller_id=seller, page_size=page_size, page_token=page_token
                )
            )
    if as_json:
        more = {} if moved is None else render.to_json(moved)
        typer.echo(json.dumps(render.to_json(response) | more, ensure_ascii=False))
        return
    render.console().print(render.wallets_table([response.wallet]))
    if moved is not None:
        render.console().print(render.movements_table(moved.movements))
        if moved.next_page_token:
            typer.echo(f"more: --page-token {moved.next_page_token}")


@app.command(epilog=f"Example: paymesh ledger balance psp_receivable EUR --source psp_stub. {HELP}")
def balance(
    account: Annotated[
        str, typer.Argument(help="The account's kind, for example commission_revenue.")
    ],
    currency: Annotated[str, typer.Argument(help="ISO 4217 code.")],
    *,
    owner: Annotated[str, typer.Option("--owner", help="The seller, for a seller's account.")] = "",
    source: Annotated[
        str, typer.Option("--source", help="The PSP or bank, for an account there.")
    ] = "",
    as_of: AsOf = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the balance of one account, positive on its normal side."""
    with reporting(as_json=as_json):
        kind = parse_enum(ledger_pb.AccountKind, account, "account")
        request = ledger_pb.GetBalanceRequest(
            account=ledger_pb.Account(
                kind=ledger_pb.AccountKind.ValueType(kind), owner_id=owner, source=source
            ),
            currency_code=currency,
            as_of_time=parse_time(as_of),
        )
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            response = client.get_balance(request)
    if as_json:
        render.print_json(response)
    else:
        typer.echo(
            f"{render.account_name(request.account)}: "
            f"{format_minor(response.balance_minor, currency)} {currency}"
        )


@app.command(
    "trial-balance", epilog=f"Example: paymesh ledger trial-balance --as-of 2026-03-01. {HELP}"
)
def trial_balance(
    as_of: AsOf = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Show debits and credits of every account; exit 1 if they don't add up to the same."""
    with reporting(as_json=as_json):
        request = ledger_pb.GetTrialBalanceRequest(as_of_time=parse_time(as_of))
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            response = client.get_trial_balance(request)
    if as_json:
        render.print_json(response)
    else:
        render.console().print(render.trial_balance_table(response.rows))
    sums = render.trial_balance_sums(response.rows)
    if any(debit != credit for debit, credit in sums.values()):
        raise typer.Exit(Exit.NOT_DONE)
