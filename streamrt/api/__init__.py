"""What a user declares: plain values, usable without an event loop."""
