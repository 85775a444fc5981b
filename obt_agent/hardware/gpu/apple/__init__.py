"""Apple's own GPUs."""
