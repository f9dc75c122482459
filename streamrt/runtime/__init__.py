"""What runs: admission, sessions, connections."""
