"""permessage-deflate (RFC 7692): whether messages are compressed, and what that may cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, final

import attrs
from attrs import field, frozen
from websockets.exceptions import InvalidHeaderFormat, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension


def _within(low: int, high: int | None = None) -> Any:
    span = f"{low} or more" if high is None else f"from {low} to {high}"

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        if type(value) is not int or value < low or (high is not None and value > high):
            raise ValueError(f"{attribute.name} must be a whole number, {span}, not {value!r}")

    return check


@final
@frozen(kw_only=True)
class Deflate:
    """Compress messages with permessage-deflate (RFC 7692), for clients that offer it.

    Turn it on where bandwidth is dearer than memory and time. A compressed frame depends on what was sent before
    on its connection, so a topic cannot share it among its subscribers: each of them pays for its own.

    Args:
        window_bits: The window of both directions is at most ``1 << window_bits`` bytes, 9 to 15. Each connection
            keeps a compressor of ``(1 << (window_bits + 2)) + (1 << (memory_level + 9))`` bytes and a decompressor
            of ``1 << window_bits``, and 14 KiB besides: 50 KiB by default, 302 KiB with zlib's own 15 and 8.
            A client that does not let us choose its window (Firefox) has one of 15 bits. Default 12.
        memory_level: zlib's ``memLevel``, 1 to 9: more memory for a little more speed and compression. Default 5.
        threshold: Messages of fewer bytes than this go out uncompressed. Default 256.

    Raises:
        ValueError: A number is not within its range.
    """

    window_bits: int = field(default=12, validator=_within(9, 15))
    memory_level: int = field(default=5, validator=_within(1, 9))
    threshold: int = field(default=256, validator=_within(0))

    def negotiate(self, offers: Sequence[str]) -> tuple[str, PerMessageDeflate] | None:
        """Accept the first offer that can be met; skip those that cannot, or cannot be read.

        Args:
            offers: The values of the ``Sec-WebSocket-Extensions`` lines of the request.

        Returns:
            The value of that header in the response, and the extension of this one connection; None when
            nothing acceptable was offered.
        """
        factory = ServerPerMessageDeflateFactory(
            server_max_window_bits=self.window_bits,
            client_max_window_bits=self.window_bits,
            compress_settings={"memLevel": self.memory_level},
        )
        for line in offers:
            with suppress(InvalidHeaderFormat):
                for name, parameters in parse_extension(line.strip(" \t")):
                    if name == factory.name:
                        with suppress(NegotiationError):
                            answer, deflate = factory.process_request_params(parameters, [])
                            return build_extension([(name, answer)]), deflate
        return None
