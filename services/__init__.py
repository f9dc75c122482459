"""The example services, put together as one app: ``streamrt run services:app``."""

from streamrt import App

from .chat import authenticate
from .chat import service as chat
from .streaming import service as streaming

app = App(streaming, chat, auth_handler=authenticate)
