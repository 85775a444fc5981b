"""GPUs: one package for each vendor, named in ``registry``. None of their providers raises."""
