"""The HTTP, SSE and WebSocket interface under ``/api/v1``, a file for each subject."""
