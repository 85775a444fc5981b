"""``python -m obt_agent`` is ``obt-agent``."""

import sys

from obt_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
