"""What goes over the wire."""

from attrs import frozen


@frozen
class Price:
    """What something costs now.

    Args:
        symbol: What.
        cents: How much.
        at: When that was, in milliseconds on the server's clock. Where that clock began, nobody knows: a client sees
            how old a price is by comparing it with those that it got the fastest.
    """

    symbol: str
    cents: int
    at: int
