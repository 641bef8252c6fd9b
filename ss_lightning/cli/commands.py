"""From the first word of the command line to the function that does it."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import OutOfMemoryError
from torch.distributed import DistError

from ss_lightning.cli.lightning_cli import TOOLS, run
from ss_lightning.errors import DataError, UsageError

_HELP = """\
Train, evaluate and compare single-spike spiking neural networks.

  fit         train a network
  validate    evaluate a checkpoint on the validation set
  test        evaluate a checkpoint on the test set
  predict     write class, probability and time of decision of every test sample to a file
  report      put runs into one HTML page
  results     put runs into one table, with the commands that repeat them
  folds       leave speakers out in turn, train on the others, test on those left out
  sweep       search for good parameters
  export      write a trained network for other tools (NIR, torch.export)
  benchmark   time this package beside its peers

SUBCOMMAND --help says more. For a start:

  python -m ss_lightning fit --config configs/yinyang.yaml                 train; needs no download
  python -m ss_lightning test --config configs/yinyang.yaml                test the best weights of its newest run
  python -m ss_lightning predict --ckpt_path RUN/checkpoints/best.ckpt     its config is found beside it
  python -m ss_lightning report runs/yinyang/version_0                     one HTML page with tables and pictures

A config holds everything; any of it can be changed on the command line:

  python -m ss_lightning fit --config configs/yinyang.yaml --model.hidden [200] --optimizer.lr 1e-3
  python -m ss_lightning fit --config configs/yinyang.yaml --print_config

Later configs go over earlier ones. Two of them choose where metrics go, beside the CSV file:

  python -m ss_lightning fit --config configs/yinyang.yaml --config configs/wandb.yaml
  python -m ss_lightning fit --config configs/yinyang.yaml --config configs/tensorboard.yaml

A search for good parameters, from a Weights & Biases sweep file, without an account:

  python -m ss_lightning sweep configs/sweeps/yinyang.yaml --trials 20
"""


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (data), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    arguments = list(sys.argv[1:] if args is None else args)
    _quiet()
    try:
        if arguments in (["--help"], ["-h"]):
            print(_HELP, end="")
            return 0
        if arguments and arguments[0] in TOOLS:
            tool = import_module(TOOLS[arguments[0]])
            return tool.main(arguments[1:])
        run(arguments)
    except (UsageError, MisconfigurationException) as error:
        return _complain(error, 2)
    except DataError as error:
        return _complain(error, 1)
    except SIGTERMException:
        return _stopped("SIGTERM", 128 + signal.SIGTERM, arguments)
    except (KeyboardInterrupt, SystemExit) as error:
        # The trainer makes an exit of Ctrl-C.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        return _stopped("Ctrl-C", 128 + signal.SIGINT, arguments)
    except (ValueError, ArithmeticError) as error:
        where = _raised_in(error)
        if not where.startswith(("lightning.", "torch.optim.")):
            raise
        return _complain(f"{where} cannot work with what the config says: {str(error).strip()}", 2)
    except (RuntimeError, MemoryError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        if isinstance(error, MemoryError | OutOfMemoryError) or "can't allocate memory" in str(error):
            return _complain(
                f"out of memory ({lines[0]}). Make model.hidden, data.batch_size or data.num_steps smaller", 2
            )
        if "gloo" not in str(error) and not isinstance(error, DistError):
            raise
        return _complain(
            f"the connection to another process of this run broke; its own error stands above ({lines[0]})", 1
        )
    return 0


def _raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")


def _stopped(by: str, code: int, arguments: Sequence[str]) -> int:
    hint = ". To go on from the last epoch that was finished: the same command with --ckpt_path last"
    print(f"\nstopped by {by}{hint if arguments[:1] == ['fit'] else ''}", file=sys.stderr)
    return code


def _complain(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Silence notes of Lightning that do not hold here."""
    # Batches are made in one vectorised step: more workers would not make them faster.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The module's own optimizer serves plain Python; the command line replaces it on purpose.
    warnings.filterwarnings("ignore", message=".*configure_optimizers` will be overridden.*")
    # A resumed run keeps its checkpoints in its own folder, and evaluation keeps none.
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    # Data without a validation set.
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    # A run folder is new; what other loggers have put there is not deleted.
    warnings.filterwarnings("ignore", message=".*exists and is not empty. Previous log files.*")
    # Lightning 2.6 on torch 2.14 warns about its own code.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
    )
