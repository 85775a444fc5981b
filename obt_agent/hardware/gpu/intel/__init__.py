"""Intel GPUs, through i915 and xe."""
