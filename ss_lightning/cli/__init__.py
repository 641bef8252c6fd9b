"""The command line: ``python -m ss_lightning``, one file for each command."""

from ss_lightning.cli.commands import main

__all__ = ["main"]
