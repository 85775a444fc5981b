"""The doctor: looks at everything that can be wrong, and says for each thing how it is and what to do.

``findings``       what a look gives
``examine``        all looks, in order, each bounded in time
``configuration``, ``server``, ``ollama``, ``machine``, ``state``, ``sandbox``   the looks themselves

It never disturbs a running agent: it takes no lock, shows the server its credential only up to the upgrade,
never introduces itself (a second hello of one identity would be refused with 4409), and changes nothing.
"""
