"""Bytes: messages, frames, and what carries them. Knows no services and no handlers."""
