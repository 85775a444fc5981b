"""Other systems, simulated on Linux."""
