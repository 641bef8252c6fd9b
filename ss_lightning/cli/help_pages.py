"""What ``fit --help`` and its relatives print: a first page at once, all keys on request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from ss_lightning.cli.recipes import recipes_folder
from ss_lightning.errors import UsageError

SUMMARIES = {
    "fit": "Train a network; leaves a run folder with config, metrics, pictures and checkpoints.",
    "validate": "Evaluate a checkpoint on the validation set.",
    "test": "Evaluate a checkpoint on the test set.",
    "predict": "Write class, probability and time of decision of every test sample to a file.",
}

_EXAMPLE = "yinyang.yaml"

_TOPICS = ("model", "data", "optimizer", "lr_scheduler", "trainer", "checkpoint", "pictures")

_FIRST_PAGE = """\
usage: python -m ss_lightning {subcommand} --config FILE [--KEY VALUE ...]

{summary}

  python -m ss_lightning {subcommand} --config configs/{example}
  python -m ss_lightning {subcommand} --config FILE --print_config   every key and its value
  python -m ss_lightning {subcommand} --config FILE --help           the keys of its model and data, with their meaning
  python -m ss_lightning {subcommand} --help trainer                 Lightning's keys; also checkpoint, pictures, all
  python -m ss_lightning {subcommand} --model.help ss_lightning.ConvClassifier
  python -m ss_lightning configs                              the configs that come with the package

Every value of a config can be given behind it. What is typed goes over the config, a later config over an earlier one.
Those of configs/{example}:

{keys}
Keys that go with every config:

{common}"""

_OF_TRAINING = (
    ("--seed_everything N", "seed of weights, data and order (0)"),
    ("--trainer.max_epochs N", "how long to train"),
    ("--trainer.accelerator NAME", "cpu, cuda, mps or auto, which takes the fastest that is there"),
    ("--trainer.fast_dev_run true", "one batch of everything, to see whether it works; leaves nothing"),
    ("--trainer.default_root_dir DIR", "where run folders go (runs)"),
    ("--lr_scheduler_interval step", "step the schedule after every update of the weights, not once an epoch"),
    ("--ckpt_path FILE|last", "go on from a checkpoint; last is that of the newest run of the config"),
)
_OF_EVALUATION = (
    ("--ckpt_path FILE|best|last", "the weights; best, that of the newest run of the config, if not given"),
    ("--trainer.accelerator NAME", "cpu, cuda, mps or auto, which takes the fastest that is there"),
    ("--trainer.default_root_dir DIR", "where run folders are (runs)"),
)
_OF_PREDICTION = (
    ("--format csv|parquet", "file to write (csv); json as well, of recordings"),
    ("--recordings FILE ...", "instead of the test set, files or folders of recordings without labels;"),
    ("", "predict --recordings --help says more"),
)


def first_page(subcommand: str) -> str:
    """The page that needs no library: examples, the keys of a small recipe, the most used of Lightning's."""
    import yaml  # here, so that a Python without what is needed can say so

    recipe = yaml.safe_load((recipes_folder() / _EXAMPLE).read_text(encoding="utf-8"))
    keys = [
        (f"--{key}.{name}", str(value))
        for key in ("model", "data", *(("optimizer", "lr_scheduler") if subcommand == "fit" else ()))
        for name, value in {"class_path": recipe[key]["class_path"], **recipe[key]["init_args"]}.items()
    ]
    common: tuple[tuple[str, str], ...] = _OF_TRAINING if subcommand == "fit" else _OF_EVALUATION
    common += _OF_PREDICTION if subcommand == "predict" else ()
    return _FIRST_PAGE.format(
        subcommand=subcommand, summary=SUMMARIES[subcommand], example=_EXAMPLE, keys=_table(keys), common=_table(common)
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(f"  {left:32}  {right}\n" for left, right in rows)


def split_help(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """What help is asked for, and the command line without that.

    Returns:
        the topic, empty for the keys of the config's model and data, None if no help is asked for; the other words.

    Raises:
        UsageError: there is no such topic.
    """
    for index, word in enumerate(arguments):
        option, equals, topic = word.partition("=")
        if option not in ("--help", "-h"):
            continue
        after = list(arguments[index + 1 :])
        if not equals and after and not after[0].startswith("-"):
            topic = after.pop(0)
        if topic and topic not in (*_TOPICS, "all"):
            raise UsageError(f"--help {topic}: there is {', '.join(_TOPICS)} and all")
        return topic, [*arguments[:index], *after]
    return None, list(arguments)


# What Lightning says of these holds elsewhere.
_HERE = {
    "trainer.accelerator": "cpu, cuda (or gpu), mps, tpu, or auto, which takes the fastest that is there",
    "trainer.default_root_dir": "where run folders go: DIR/CONFIG/version_N; runs if not given",
    "trainer.enable_autolog_hparams": "log the arguments of the model; the whole config is logged anyway",
    "trainer.enable_checkpointing": "leave it out: fit always keeps the best and the last checkpoint",
    "trainer.log_every_n_steps": "write the metrics of a training step after every so many updates",
    "trainer.logger": "loggers beside the CSV file of every run, such as that of configs/wandb.yaml; false for none",
    "trainer.model_registry": "for Lightning's own cloud",
    "checkpoint.dirpath": "where checkpoints go; checkpoints in the run folder if not given",
    "checkpoint.filename": "name of the best checkpoint, without its ending; {epoch} and {val/accuracy} are replaced",
    "checkpoint.monitor": "the metric that says which checkpoint is best",
    "checkpoint.save_last": "leave it out: last.ckpt is written after every epoch anyway",
}

# Arguments that no config gives: the data or the trainer does.
_GIVEN = {"model": {"input_shape", "num_classes", "step_ms"}, "optimizer": {"params"}, "lr_scheduler": {"optimizer"}}

# A default that stands in a text as well, and a role of Sphinx.
_DEFAULT = re.compile(r"\s*(?:Default|Defaults to):? ?`{0,2}[^`\s]+`{0,2}\.(?=\s|$)")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


def keys_page(topic: str, classes: Mapping[str, tuple[type, Mapping[str, Any]]]) -> str:
    """Every key with its type, its value in the config and what it means.

    Args:
        topic: one key, ``all``, or nothing for model and data.
        classes: for each key the class that takes the arguments below it, and the values that the config has for them.

    Raises:
        UsageError: no config says which class that is.
    """
    from jsonargparse import ArgumentParser, DefaultHelpFormatter  # here, as the first page comes without it

    asked = [key for key in _TOPICS if key in classes] if topic == "all" else [topic] if topic else ["model", "data"]
    text = ""
    for key in asked:
        if key not in classes:
            raise UsageError(f"--help {key}: name a config that has one: --config configs/{_EXAMPLE} --help {key}")
        cls, values = classes[key]
        parser = ArgumentParser(add_help=False, exit_on_error=False, formatter_class=DefaultHelpFormatter)
        parser.add_class_arguments(cls, key, as_group=False, skip=_GIVEN.get(key, set()), fail_untyped=False)
        for action in parser._actions:
            said = _HERE.get(action.dest) or " ".join(str(action.help or "").split())
            action.help = _ROLE.sub(r"\1", _DEFAULT.sub("", said)).replace("``", "").replace("%", "%%")
        known = {action.dest for action in parser._actions}
        parser.set_defaults({f"{key}.{name}": value for name, value in values.items() if f"{key}.{name}" in known})
        lines = parser.format_help().splitlines(keepends=True)
        start = next((i for i, line in enumerate(lines) if line.startswith("  --")), len(lines))
        package = import_module(cls.__module__.partition(".")[0])
        short = getattr(package, cls.__name__, None) is cls
        path = f"{package.__name__ if short else cls.__module__}.{cls.__name__}"
        text += f"{key}: {path}\n{''.join(lines[start:])}\n"
    text = f"The default of a key is the value that this config has.\n\n{text}" if "model" in classes else text
    more = "--help trainer shows Lightning's keys, --help all everything, --print_config the values.\n"
    return text + ("" if topic else more)
