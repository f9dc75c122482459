"""The example services, put together as one app: ``streamrt run services:app``."""

from streamrt import App

from .assistant import service as assistant
from .chat import authenticate
from .chat import service as chat
from .pages import serve_pages
from .streaming import service as streaming
from .ticker import open_market
from .ticker import service as ticker

app = App(
    streaming,
    assistant,
    chat,
    ticker,
    auth_handler=authenticate,
    user=lambda user: user.name,
    lifespan=open_market,
    fallback=serve_pages,
)
