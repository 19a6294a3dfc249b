"""Hostile settlement files, and good ones to be cut."""

from __future__ import annotations

from tests.support.settlement import OwnFile, camt, mt940, ntry, stmt, stripe, stripe_row

ENTITY = '<!DOCTYPE Document [<!ENTITY {name} "{value}">]>'
LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, 10))
    + "]>"
)

KINDS = ["camt", "mt940", "mt940 in a block", "stripe", "own"]


def complete(kind: str) -> tuple[bytes, int]:
    """A file that ties, and the length from which on nothing of its money is missing."""
    match kind:
        case "camt":
            details = "<TxDtls><RmtInf><Ustrd>a &amp; é</Ustrd></RmtInf></TxDtls>"
            content = camt(
                stmt(ntry("5.00", details=details), ntry("2.00", "DBIT"), closing="103.00")
            ).encode()
            return content, len(content)
        case "mt940":
            content = mt940(
                "61:260130C5,55NTRFA",
                "86:text",
                "61:260130D2,22NTRFB",
                closing="62F:C260131EUR103,33",
            ).encode()
            return content, content.index(b"103,33") + len(b"103,33")
        case "mt940 in a block":
            text = mt940("61:260130C5,55NTRFA", closing="62F:C260131EUR105,55")
            content = ("{1:F01X}{2:O940XN}{4:\n" + text.removesuffix("-\n") + "-}\n").encode()
            # A lone dash is an end, too.
            return content, len(content) - 2
        case "stripe":
            rows = (stripe_row("9.41", "10.00", "0.59"), stripe_row("-9.41", category="payout"))
            content = stripe(*rows).encode()
            # From the last cell on, which carries nothing.
            return content, len(content) - 2
        case _:
            file = OwnFile().open(7).line(500, 9).line(-77, 0, "REFUND").close()
            content = file.text().encode()
            return content, len(content) - 1
