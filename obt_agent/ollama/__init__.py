"""Ollama: its HTTP client, its NDJSON streams, its catalogue of models. Knows nothing of the wire."""
