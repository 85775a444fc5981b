"""``python -m obt_server``."""

import sys

from obt_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
