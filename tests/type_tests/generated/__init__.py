"""Clients of the examples, as `streamrt gen client` writes them: checked by the session `types`, and never run."""
