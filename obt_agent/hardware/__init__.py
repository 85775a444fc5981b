"""The machine: inventory and samples. Knows nothing of the wire; nothing in here invents a value."""
