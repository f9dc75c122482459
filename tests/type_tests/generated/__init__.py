"""Clients that `streamrt gen client` has written of the examples, to be type-checked; see `clients.py` beside."""
