"""``python -m ss_lightning benchmark``: this package and its peers timed on the machine at hand.

The command is :mod:`ss_lightning.benchmark.command`. For a GPU there is one prepared script,
:mod:`ss_lightning.benchmark.gpu`.
"""

from ss_lightning.benchmark.cells import SUITES, Cell, cells, make_batch

__all__ = ["SUITES", "Cell", "cells", "make_batch"]
