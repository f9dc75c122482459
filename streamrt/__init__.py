"""Structured-concurrency runtime on Trio for typed streaming APIs."""

from streamrt.api.context import get_auth_data as get_auth_data
from streamrt.api.context import get_resources as get_resources
from streamrt.api.endpoint import Endpoint as Endpoint
from streamrt.api.endpoint import StreamInEndpoint as StreamInEndpoint
from streamrt.api.endpoint import StreamInOutEndpoint as StreamInOutEndpoint
from streamrt.api.endpoint import StreamOutEndpoint as StreamOutEndpoint
from streamrt.api.handshake import Cookie as Cookie
from streamrt.api.handshake import Header as Header
from streamrt.api.handshake import Query as Query
from streamrt.api.limits import Limits as Limits
from streamrt.api.remote import remote as remote
from streamrt.api.request import Request as Request
from streamrt.api.service import Service as Service
from streamrt.api.stream import StreamIn as StreamIn
from streamrt.api.stream import StreamInOut as StreamInOut
from streamrt.api.stream import StreamOut as StreamOut
from streamrt.api.stream import StreamOutWithResponse as StreamOutWithResponse
from streamrt.api.stream import TopicPosition as TopicPosition
from streamrt.app import App as App
from streamrt.client.client import Client as Client
from streamrt.client.client import get_client as get_client
from streamrt.client.dialling import HeadersAttempt as HeadersAttempt
from streamrt.client.events import Back as Back
from streamrt.client.events import Draining as Draining
from streamrt.client.events import Gap as Gap
from streamrt.client.events import Lost as Lost
from streamrt.client.events import Recovered as Recovered
from streamrt.client.events import StreamEvent as StreamEvent
from streamrt.client.reconnect import Reconnect as Reconnect
from streamrt.errors import APIError as APIError
from streamrt.errors import Ended as Ended
from streamrt.errors import Fault as Fault
from streamrt.errors import InvalidMessage as InvalidMessage
from streamrt.runtime.broker import Broker as Broker
from streamrt.runtime.broker import History as History
from streamrt.runtime.broker import MemoryBroker as MemoryBroker
from streamrt.runtime.changes import Changed as Changed
from streamrt.runtime.changes import Joined as Joined
from streamrt.runtime.changes import Left as Left
from streamrt.runtime.changes import Present as Present
from streamrt.runtime.presence import Member as Member
from streamrt.runtime.presence import Presence as Presence
from streamrt.runtime.subscribers import Attachment as Attachment
from streamrt.runtime.subscribers import Subscription as Subscription
from streamrt.runtime.topic import KeyStatistics as KeyStatistics
from streamrt.runtime.topic import Topic as Topic
from streamrt.runtime.topic import TopicStatistics as TopicStatistics
from streamrt.runtime.users import OpenStream as OpenStream
from streamrt.server.serve import serve as serve
from streamrt.wire.codec import EncodeError as EncodeError
from streamrt.wire.deflate import Deflate as Deflate

for _name, _value in list(globals().items()):  # tracebacks and documentation say streamrt.StreamIn
    if getattr(_value, "__module__", "").startswith("streamrt.") and not _name.startswith("_"):
        _value.__module__ = __name__
