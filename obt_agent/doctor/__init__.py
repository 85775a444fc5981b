"""The doctor: checks everything that can be wrong, and reports for each thing its state and what to do.

``findings``       the result of a check
``run_all``        all checks, in order, each bounded in time
``configuration``, ``server``, ``ollama``, ``machine``, ``state``, ``sandbox``   the checks themselves

It never disturbs a running agent: it takes no lock, shows the server its credential only up to the upgrade,
never introduces itself (a second hello of one identity would be refused with 4409), and changes nothing.
"""
