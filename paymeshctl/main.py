"""The command `paymesh`: its verbs, wired."""

from __future__ import annotations

import typer

from paymeshctl import books, payments, reconcile, report, settle, stub
from paymeshctl.check import check
from paymeshctl.databases import migrate
from paymeshctl.demo import demo
from paymeshctl.doctor import doctor
from paymeshctl.exits import HELP
from paymeshctl.up import up

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # A traceback with the values of locals would show what must not be seen.
    pretty_exceptions_enable=False,
    help="A payments mesh: start it, pay with it, read its books.",
    epilog=HELP,
)

app.command(
    epilog=f"Example: paymesh up --data-dir ./data --port-base 50050 --replicas payment=2. {HELP}"
)(up)
app.command(epilog=f"Example: paymesh demo. {HELP}")(demo)
app.command(
    epilog="Example: paymesh pay --buyer buyer-1 --method tok_ok --order alice=12.50:EUR:1.25 "
    f"--order bob=30:EUR. {HELP}"
)(payments.pay)
app.add_typer(payments.app, name="payment")
app.command(epilog=f"Example: paymesh wallet alice --movements. {HELP}")(books.wallet)
app.add_typer(books.app, name="ledger")
settle.app.command(
    epilog=f"Example: paymesh settle ingest day.csv --source psp_stub. {reconcile.INGEST_HELP}"
)(reconcile.ingest)
app.add_typer(settle.app, name="settle")
app.command(
    epilog=f"Example: paymesh check --from 2026-03-01T00:00:00Z --look-up --repair. {HELP}"
)(check)
app.command(epilog=f"Example: paymesh doctor --older-than 60 --json. {HELP}")(doctor)
reconcile.app.command(
    epilog="Example: paymesh reconcile report --date yesterday --source psp_stub --out day.html. "
    f"{report.HELP}"
)(report.report)
app.add_typer(reconcile.app, name="reconcile")
app.add_typer(stub.app, name="stub")
app.command(
    epilog="Example: PAYMESH_DATABASE_URL=postgresql://… PAYMESH_PAYMENT_DATABASE_URL=… "
    f"paymesh migrate. {HELP}"
)(migrate)


def main() -> None:
    """Runs the verb that the command line names, and exits with its code."""
    app()
