"""A channel that passes everything on but the calls, which whoever derives from it makes."""

from __future__ import annotations

from typing import Self

import grpc


class PassingChannel(grpc.aio.Channel):
    """What a channel does beside its calls is done by the real one."""

    def __init__(self, real: grpc.aio.Channel) -> None:
        self._real = real

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._real.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._real.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._real.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._real.channel_ready()
