"""The program of a runner's process: holds as much memory as it is told, and ends with its server.

Started by its path, with the command line of Ollama's own runner. Each line of standard input is a number of
MiB to hold from then on; each is answered with a line once the memory is resident.
"""

import contextlib
import sys
from pathlib import Path

_MIB = b"\1" * (1 << 20)


def main() -> None:
    """Hold what is asked for until the server closes standard input."""
    # Linux alone has it, and there ``ps`` shows this name, as it does for the real one.
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("llama-server", encoding="ascii")
    held: list[bytearray] = []
    for line in sys.stdin:
        wanted = int(line)
        del held[wanted:]
        # Copies, each written to: memory that was only reserved is not resident.
        held.extend(bytearray(_MIB) for _ in range(wanted - len(held)))
        sys.stdout.write("ready\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
