"""``python -m obt_server`` is ``obt-server``."""

from obt_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
