"""The reference server, with any of its commands."""

import sys

from obt_server.cli import main

sys.exit(main())
