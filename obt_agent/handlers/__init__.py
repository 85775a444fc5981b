"""One command, one file, named as on the wire."""
