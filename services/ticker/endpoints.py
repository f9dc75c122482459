"""The same prices twice, for those who want them fresh and for those who want them all."""

import trio

from streamrt import Service, StreamOut, get_resources

from .market import Market, every, latest
from .types import Price

service = Service("ticker")


@service.stream_out("/prices", expose=True)
async def prices(stream: StreamOut[Price]) -> None:
    """Send prices as fast as the client reads: of each symbol the newest."""
    async with latest.attach(stream):
        with get_resources(Market).watched():
            await trio.sleep_forever()


@service.stream_out("/prices/all", expose=True)
async def all_prices(stream: StreamOut[Price]) -> None:
    """Send every price, and cut off a client that is too far behind."""
    async with every.attach(stream):
        with get_resources(Market).watched():
            await trio.sleep_forever()
