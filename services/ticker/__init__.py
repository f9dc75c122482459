"""A price board, to show what happens to those who read more slowly than prices move."""

from .endpoints import service as service
from .market import open_market as open_market
