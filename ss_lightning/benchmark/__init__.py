"""``python -m ss_lightning benchmark``: this package beside its peers, on the machine at hand."""

from ss_lightning.benchmark.command import main

__all__ = ["main"]
