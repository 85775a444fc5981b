"""Snapshots of machines: written by ``capture``, masked, and read again in place of the running machine."""
