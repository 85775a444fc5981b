"""One command, one file, named as on the wire. A new file is found by its name in the protocol's table.

A handler is a coroutine ``run(services, params, context)``. It returns the final result or raises one of the
project's errors; the dispatcher writes the answer. ``params`` has the type that the table gives.
"""
