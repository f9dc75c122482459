"""Answers that come word by word, several at a time, and each of which can be cancelled."""

from .endpoints import service as service
