"""Brokers that connect the topics of several processes."""

try:
    from .redis import RedisBroker as RedisBroker
except ModuleNotFoundError as _error:
    if _error.name is None or _error.name.partition(".")[0] != "coredis":
        raise
    raise ModuleNotFoundError("RedisBroker needs coredis: pip install 'streamrt[redis]'", name="coredis") from None

from .redis import BrokerError as BrokerError
from .redis import BrokerStatistics as BrokerStatistics

for _value in (RedisBroker, BrokerError, BrokerStatistics):  # tracebacks and documentation say streamrt.brokers
    _value.__module__ = __name__
