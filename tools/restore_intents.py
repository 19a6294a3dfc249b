"""Tell the executor of operations that it forgot, after its database was set back in time.

The executor sends an operation that it has no row of as a new one, under the same key. A PSP
that has forgotten the key by then takes the money twice. So where the executor's database was
restored to an earlier time than payment's, and before payment_svc is started again:

    python tools/restore_intents.py --source psp_stub           # tells what is missing
    python tools/restore_intents.py --source psp_stub --apply   # and writes it

For each order that payment_svc may drive again, and whose operation the executor lacks, this
writes the row as it was after the intent: sent at the time at which the payment was accepted.
So the executor looks it up first, and sends the key again only while that is safe. Rows that
are there stay as they are, and it may be repeated.

The databases are those of PAYMESH_PAYMENT_DATABASE_URL and PAYMESH_EXECUTOR_DATABASE_URL, or
of their files (mesh/secret_files.py); the services' own roles suffice. Exit codes: 0 nothing
is missing any more; 1 something is, and was only told; 2 refused, or not able to
look.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

EXIT_MISSING = 1
EXIT_REFUSED = 2

try:
    import psycopg

    from executor_svc.domain import State
    from mesh import ids
    from mesh.secret_files import BadSecretError, database_url
    from payment_svc.domain import OPEN_STATES, OrderState
except (ImportError, SyntaxError) as error:
    # A traceback ends with 1, which says that something is missing in the database.
    sys.stderr.write(f"this python ({error}) won't do: take the one that has Paymesh installed\n")
    sys.exit(EXIT_REFUSED)

CONNECT_TIMEOUT_S = 10

_ALIVE = "SELECT name FROM replica WHERE NOT dead AND lease_until > paymesh_now()"

_DRIVABLE = """
SELECT o.operation_id, o.payment_id, q.order_id, o.kind, o.amount_minor, q.currency_code,
  p.payment_method, o.create_time
FROM operation o
JOIN payment_order q USING (payment_id, position)
JOIN payment p USING (payment_id)
WHERE q.state = ANY(%s)
ORDER BY o.create_time, o.operation_id
"""

_KNOWN = "SELECT operation_id FROM operation WHERE operation_id = ANY(%s)"

_INSERT = """
INSERT INTO operation (operation_id, payment_id, order_id, psp_key, kind, amount_minor, currency,
  payment_method, source, first_send_time, send_count, state)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1, %s)
ON CONFLICT (operation_id) DO NOTHING
"""


class RefusedError(Exception):
    """Nothing was done; the message is for people."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An operation that payment_svc may drive and the executor does not know."""

    operation_id: UUID
    payment_id: UUID
    order_id: UUID
    kind: int
    amount_minor: int
    currency_code: str
    payment_method: str
    create_time: datetime

    def row(self, source: str) -> tuple[object, ...]:
        """The values of _INSERT. source: the PSP's stable name."""
        return (
            self.operation_id,
            self.payment_id,
            self.order_id,
            ids.psp_key(self.operation_id),
            self.kind,
            self.amount_minor,
            self.currency_code,
            self.payment_method,
            source,
            self.create_time,
            int(State.SENT),
        )


def find_missing(payment_url: str, executor_url: str) -> list[Missing]:
    """What is missing, oldest first. Raises RefusedError while a payment_svc lives."""
    states = [int(state) for state in (*OPEN_STATES, OrderState.PARKED)]
    with psycopg.connect(payment_url, connect_timeout=CONNECT_TIMEOUT_S) as payment:
        alive = [str(name) for (name,) in payment.execute(_ALIVE)]
        if alive:
            raise RefusedError(f"payment_svc runs ({', '.join(alive)}): stop it first")
        drivable = [Missing(*row) for row in payment.execute(_DRIVABLE, (states,))]
    with psycopg.connect(executor_url, connect_timeout=CONNECT_TIMEOUT_S) as executor:
        asked = [operation.operation_id for operation in drivable]
        known = {row[0] for row in executor.execute(_KNOWN, (asked,))}
    return [operation for operation in drivable if operation.operation_id not in known]


def restore(executor_url: str, missing: list[Missing], source: str) -> None:
    """Writes the rows in one transaction."""
    with (
        psycopg.connect(executor_url, connect_timeout=CONNECT_TIMEOUT_S) as executor,
        executor.cursor() as cursor,
    ):
        cursor.executemany(_INSERT, [operation.row(source) for operation in missing])


def _url(service: str) -> str:
    variable = f"PAYMESH_{service}_DATABASE_URL"
    try:
        url = database_url(variable, os.environ)
    except BadSecretError as error:
        raise RefusedError(f"bad setting: {error}") from error
    if url is None:
        raise RefusedError(f"{variable} is not set")
    return url


def main(arguments: list[str]) -> int:
    """Finds and, if asked to, writes."""
    parser = argparse.ArgumentParser(description="Restore the executor's intents.")
    parser.add_argument(
        "--source", required=True, help="the PSP's name, as its GetCapabilities says"
    )
    parser.add_argument("--apply", action="store_true", help="write what is missing")
    given = parser.parse_args(arguments)
    try:
        executor_url = _url("EXECUTOR")
        missing = find_missing(_url("PAYMENT"), executor_url)
        for operation in missing:
            print(
                f"payment {operation.payment_id.hex} order {operation.order_id.hex}"
                f" operation {operation.operation_id.hex} accepted {operation.create_time}"
            )
        if given.apply:
            restore(executor_url, missing, given.source)
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_REFUSED
    except psycopg.Error as error:
        # The first line names the server and what it said, not a row.
        sys.stderr.write(f"the database refused: {str(error).splitlines()[0]}\n")
        return EXIT_REFUSED
    print(f"{len(missing)} operations {'written' if given.apply else 'missing'}")
    return EXIT_MISSING if missing and not given.apply else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
