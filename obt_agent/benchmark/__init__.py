"""Benchmarks: plan, method, arithmetic, statistics and results. Knows nothing of the wire."""
