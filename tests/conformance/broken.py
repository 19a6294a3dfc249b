"""What is common to adapters that are broken in one way each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import grpc
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import MeshError
from mesh.status import trailing_metadata
from tests.conformance.proxy import Context, Proxy

GENERIC = pb.ChargeDeclined(category=payment_pb2.DECLINE_CATEGORY_GENERIC, code="do_not_honour")


class Broken(Proxy):
    """breaks: the rules that an adapter like this really breaks, the one it is made for first."""

    breaks: ClassVar[tuple[str, ...]] = ()


class Cuts(Exception):
    """Ends the call as a whole with this error."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(str(error))
        self.error = error


class CutsCalls(Broken):
    """Its hooks may raise Cuts."""

    async def Charge(
        self, request: pb.ChargeRequest, context: Context
    ) -> AsyncIterator[pb.ChargeResponse]:
        try:
            async for response in super().Charge(request, context):
                yield response
        except Cuts as cut:
            code = {c.value[0]: c for c in grpc.StatusCode}[int(cut.error.code)]
            await context.abort(code, cut.error.message, trailing_metadata(cut.error))


class ChargesAnew(Broken):
    def another(self, item: pb.ChargeItem) -> pb.ChargeItem:
        """The charge under another key, and sure to be captured."""
        other = self.under_another_key(item)
        other.payment_method = "tok_ok"
        return other
