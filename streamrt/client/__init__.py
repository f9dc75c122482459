"""Typed clients, over a WebSocket or in memory."""
