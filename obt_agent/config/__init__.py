"""What the host's owner has written: the schema, how it is read, and where each value came from."""
