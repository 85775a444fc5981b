"""A scripted stand-in for Ollama, for the demonstration, the tests and the benchmarks."""
