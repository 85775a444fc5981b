"""Measurements of the agent itself. Printed, never asserted."""
