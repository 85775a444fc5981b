"""One command, one file, named as on the wire; ``table`` holds them all.

A handler gets services as plain arguments of its ``make`` and a ``CommandContext`` at each call. It returns
the final result or raises one of the project's errors; the dispatcher writes the answer.
"""
