"""Seeded random histories of several server processes: faults while operators work, and what must hold."""
