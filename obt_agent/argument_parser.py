"""The parser that the programs' command lines share."""

from __future__ import annotations

import argparse


class PlainArgumentParser(argparse.ArgumentParser):
    """Show descriptions, which are docstrings, without their marks of code."""

    def format_help(self) -> str:  # noqa: D102 - argparse's contract
        return super().format_help().replace("``", "")
