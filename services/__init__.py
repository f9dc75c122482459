"""The example services, put together as one app: ``streamrt run services:app``."""

from streamrt import App

from .chat import authenticate
from .chat import service as chat
from .streaming import service as streaming
from .ticker import open_market, serve_page
from .ticker import service as ticker

app = App(
    streaming,
    chat,
    ticker,
    auth_handler=authenticate,
    user=lambda user: user.name,
    lifespan=open_market,
    fallback=serve_page,
)
