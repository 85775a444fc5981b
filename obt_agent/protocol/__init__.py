"""``obt.v1`` as pure data: message types, codec, errors, credit and fairness. No asyncio, no I/O."""
