"""From the first word of the command line to the function that does it.

Nothing large is imported here: what only prints, and a word that is wrong, is answered at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from ss_lightning._version import __version__
from ss_lightning.cli.help_pages import first_page
from ss_lightning.cli.output import format_warning, make_output_last, output_is_incomplete, silence_warnings
from ss_lightning.errors import DataError, UsageError, suggestion

LIGHTNING_CLI = "ss_lightning.cli.lightning_cli"


@dataclass(frozen=True)
class Command:
    """What a word of the command line stands for.

    Attributes:
        summary: what it does, in a few words.
        module: where its ``main(arguments)`` lives; imported when the word is used.
    """

    summary: str
    module: str = LIGHTNING_CLI


COMMANDS = {
    "fit": Command("train a network"),
    "validate": Command("evaluate a checkpoint on the validation set"),
    "test": Command("evaluate a checkpoint on the test set"),
    "predict": Command(
        "write class, probability and time of decision of test samples, or of your recordings, to a file"
    ),
    "configs": Command("list the recipes that come with the package, or copy one", "ss_lightning.cli.recipes"),
    "report": Command("put runs into one HTML page", "ss_lightning.cli.report"),
    "results": Command("put runs into one table, with the commands that repeat them", "ss_lightning.cli.results"),
    "folds": Command(
        "leave speakers out in turn, train on the others, test on those left out", "ss_lightning.cli.folds"
    ),
    "sweep": Command("search for good parameters", "ss_lightning.cli.sweep"),
    "export": Command(
        "write a trained network for other tools (NIR, torch.export)", "ss_lightning.export.checkpoint_export"
    ),
    "benchmark": Command("time this package beside its peers", "ss_lightning.benchmark.command"),
}

# Files without labels need no data module and no trainer.
_OF_RECORDINGS = Command("classify recordings without labels", "ss_lightning.cli.predict_recordings")

# Commands whose result lies in files. That of the others is what they print.
_TRAININGS = ("fit", "folds", "sweep")

_EXAMPLES = """\
SUBCOMMAND --help says more. For a start:

  python -m ss_lightning fit --config configs/yinyang.yaml                 train; needs no download
  python -m ss_lightning test --config configs/yinyang.yaml                test the best weights of its newest run
  python -m ss_lightning predict --ckpt_path RUN/checkpoints/best.ckpt     its config is found beside it
  python -m ss_lightning predict --ckpt_path FILE --recordings FILE ...    recordings without labels
  python -m ss_lightning report runs/yinyang/version_0                     one HTML page with tables and pictures

A config that is not in this folder is looked up among those that come with the package; configs lists them. It holds
everything, and any of it can be changed on the command line:

  python -m ss_lightning fit --config configs/yinyang.yaml --model.hidden [200] --optimizer.lr 1e-3
  python -m ss_lightning fit --config configs/yinyang.yaml --print_config

Later configs go over earlier ones. Two of them choose where metrics go, beside the CSV file:

  python -m ss_lightning fit --config configs/yinyang.yaml --config configs/wandb.yaml
  python -m ss_lightning fit --config configs/yinyang.yaml --config configs/tensorboard.yaml

A search for good parameters, from a Weights & Biases sweep file, without an account:

  python -m ss_lightning sweep configs/sweeps/yinyang.yaml --trials 20 --jobs 2
"""


def help_text() -> str:
    """What ``python -m ss_lightning --help`` prints."""
    lines = [f"  {word:10}  {command.summary}\n" for word, command in COMMANDS.items()]
    return f"Train, evaluate and compare single-spike spiking neural networks.\n\n{''.join(lines)}\n{_EXAMPLES}"


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (data), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    arguments = list(sys.argv[1:] if args is None else args)
    make_output_last()
    try:
        code = _run(arguments)
    except SystemExit:  # of what only prints, such as --print_config
        sys.stdout.flush()
        if output_is_incomplete(sys.stdout):
            return 1
        raise
    sys.stdout.flush()
    if code == 0 and output_is_incomplete(sys.stdout) and arguments[0] not in _TRAININGS:
        return 1
    return code


def _run(arguments: list[str]) -> int:
    silence_warnings()
    if arguments[:1] in (["--help"], ["-h"], ["help"]) and arguments[1:2] and arguments[1] in COMMANDS:
        arguments = [arguments[1], "--help"]
    try:
        if arguments in (["--help"], ["-h"], ["help"]):
            print(help_text(), end="")
            return 0
        if arguments in (["--version"], ["-V"], ["version"]):
            print(f"ss_lightning {__version__}")
            return 0
        command = find_command(arguments)
        if arguments[0] == "predict" and any(word.partition("=")[0] == "--recordings" for word in arguments):
            command = _OF_RECORDINGS
        if command.module == LIGHTNING_CLI and arguments[1:] in (["--help"], ["-h"]):
            print(first_page(arguments[0]), end="")
            return 0
        # Lightning's commands share one parser, which needs the word; the others have one of their own.
        words = arguments if command.module == LIGHTNING_CLI else arguments[1:]
        if arguments[0] in ("folds", "sweep"):
            import_module("ss_lightning.cli.fork_server").start_server(words)
        run = import_module(command.module).main
        warnings.formatwarning = format_warning  # Lightning has set one of its own by now
        return run(words)
    except UsageError as error:
        return _print_error(error, 2)
    except DataError as error:
        return _print_error(error, 1)
    except (KeyboardInterrupt, SystemExit) as error:
        if type(error) not in (KeyboardInterrupt, SystemExit):  # Lightning's own, see its SIGTERMException
            return _print_stopped("SIGTERM", 128 + signal.SIGTERM, arguments)
        # The trainer makes an exit of Ctrl-C.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        return _print_stopped("Ctrl-C", 128 + signal.SIGINT, arguments)
    except Exception as error:
        # To know the errors of torch and Lightning is to import them.
        try:
            explain = import_module("ss_lightning.cli.failures").explain
        except ModuleNotFoundError as missing:
            return _print_error(UsageError(_not_installed(missing.name)), 2)
        known = explain(error)
        if known is None:
            raise
        return _print_error(*known)


def _not_installed(name: str | None) -> str:
    return (
        f"{name} is missing in {sys.executable}. Activate the environment that ss_lightning was installed in, such as "
        "with `. .venv/bin/activate`, or install it into this one as README.md says"
    )


# What other programs call these.
_SYNONYMS = {
    **dict.fromkeys(("train", "training", "run", "start", "resume", "learn"), "fit"),
    **dict.fromkeys(("eval", "evaluate", "evaluation", "score"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validate"),
    **dict.fromkeys(("infer", "inference", "classify", "prediction"), "predict"),
    **dict.fromkeys(("tune", "search", "optimize", "optimise", "hpo"), "sweep"),
    **dict.fromkeys(("recipes", "recipe", "list", "examples", "init"), "configs"),
    **dict.fromkeys(("table", "compare"), "results"),
    **dict.fromkeys(("plot", "html", "show"), "report"),
    **dict.fromkeys(("cv", "crossval", "cross-validation"), "folds"),
    **dict.fromkeys(("bench", "speed", "time"), "benchmark"),
    **dict.fromkeys(("convert", "onnx", "nir", "save"), "export"),
}


def find_command(arguments: Sequence[str]) -> Command:
    """What the first word stands for.

    Raises:
        UsageError: there is none, or it stands for nothing.
    """
    if not arguments:
        raise UsageError(f"say what to do: {', '.join(COMMANDS)}. --help explains")
    word = arguments[0]
    if word in COMMANDS:
        return COMMANDS[word]
    if word.startswith("-"):
        meant = next((other for other in arguments if other in COMMANDS), "fit")
        raise UsageError(f"the first word says what to do, options follow: python -m ss_lightning {meant} {word} ...")
    for ending, example in ((".yaml", "fit --config"), (".yml", "fit --config"), (".ckpt", "test --ckpt_path")):
        if word.endswith(ending):
            raise UsageError(
                f"{word} is a file; say what to do with it, such as python -m ss_lightning {example} {word}"
            )
    synonym = _SYNONYMS.get(word.lower())
    near = f" Did you mean {synonym}?" if synonym else suggestion(word, COMMANDS)
    raise UsageError(f"there is no subcommand {word}.{near}")


def _print_stopped(by: str, code: int, arguments: Sequence[str]) -> int:
    hint = ". To go on from the last epoch that was finished: the same command with --ckpt_path last"
    print(f"\nstopped by {by}{hint if arguments[:1] == ['fit'] else ''}", file=sys.stderr)
    return code


def _print_error(error: Exception | str, code: int) -> int:
    if os.environ.get("SS_LIGHTNING_TRACEBACK"):
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return code
