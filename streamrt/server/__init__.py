"""What serves an app: hypercorn, or any other ASGI server."""
