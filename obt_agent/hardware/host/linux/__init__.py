"""Readers of the files that Linux has in ``/proc`` and ``/sys``."""
