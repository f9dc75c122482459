"""The servers that are measured, a module each, with one function: ``serve(listener)``, which does not return."""

BURST = 64
"""Messages that a flood sends before others run; for libraries whose `send` lets them only once the socket is full."""
