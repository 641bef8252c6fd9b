"""``python -m ss_lightning folds``: leave speakers out, train on all the others, test on those left out; in turns.

The speakers of all parts of a data set take part. What counts of a training is its last checkpoint: no epoch is chosen
on the speakers that are left out. Each training is a run like any other, ``without_<speakers>/version_<seed>`` with its
test in ``without_<speakers>/test_<seed>``, so that a stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser

from ss_lightning.cli.jobs import (
    Ask,
    JobQueue,
    Output,
    check_jobs,
    ends_by_sigterm,
    progress,
    run_in_turn,
    run_side_by_side,
    say_stopped,
)
from ss_lightning.cli.lightning_cli import CommandLineCheck, first_config, run_command
from ss_lightning.cli.output import silence_lightning
from ss_lightning.data import FolderData, SHDData, held_out_speakers
from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import at_place_of_user, display_path, save_text, write_whole
from ss_lightning.parsing import WordsParser
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.configs import comparable_config, flatten_config
from ss_lightning.runs.folders import DEFAULT_ROOT, config_name
from ss_lightning.runs.reading import FOLDS_SUMMARY, read_folds_summary, read_run
from ss_lightning.runs.record import command_line
from ss_lightning.runs.statistics import over_groups

_METRICS = ("accuracy", "spikes_per_sample", "dead_fraction", "synops_per_sample")
_COLUMNS = ("speakers", "seed", *_METRICS, "parameters", "seconds")
# Trainings are many: no bars, no pictures, unless they are asked for.
_QUIET_OPTIONS = [
    "--pictures.every_n_epochs=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]

Speaker = int | str
Fold = tuple[Speaker, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        arguments: of the command line ``fit``, all but the speakers and the seed.
        config: what they mean, flattened; the parts that change no result are left out.
        folds: the speakers that are left out together.
        seeds: every fold is trained once with each.
        folder: where the runs and the results go.
    """

    arguments: list[str]
    config: dict[str, Any]
    folds: list[Fold]
    seeds: list[int]
    folder: Path

    def trainings(self) -> list[tuple[Fold, int]]:
        """Fold and seed of every training, a seed after the other."""
        return [(fold, seed) for seed, fold in product(self.seeds, self.folds)]


def make_folds(speakers: Sequence[Speaker], size: int) -> list[Fold]:
    """Neighbours in the order of their ids or names are left out together.

    Args:
        speakers: ids or names of all speakers, rising.
        size: speakers in a fold; the last one is smaller where they cannot be shared evenly.

    Raises:
        UsageError: a fold would leave no speaker to train on.
    """
    if not 1 <= size < len(speakers):
        raise UsageError(
            f"--size is {size}; expected 1 or more, and fewer than the {len(speakers)} speakers of the data, "
            f"{_list(speakers)}"
        )
    return [tuple(speakers[start : start + size]) for start in range(0, len(speakers), size)]


def read_folds(words: Sequence[str], speakers: Sequence[Speaker]) -> list[Fold]:
    """Folds as they are written on the command line: ``0,1 2,3``.

    Args:
        words: the folds.
        speakers: ids or names of all speakers.

    Raises:
        UsageError: a fold is no list of speakers, has one that does not exist, shares one with another fold, or leaves
            none to train on.
    """
    folds: list[Fold] = []
    known = {str(speaker): speaker for speaker in speakers}
    for word in words:
        names = {name.strip() for name in word.split(",")}
        if all(type(speaker) is int for speaker in speakers):
            try:
                names = {str(int(name)) for name in names}
            except ValueError as error:
                raise UsageError(f"--folds: {word!r} is no list of speakers; expected folds like 0,1 2,3") from error
        fold = tuple(speaker for name, speaker in known.items() if name in names)
        if unknown := sorted(names - set(known)):
            raise UsageError(f"--folds {word}: no speaker {_list(unknown)} in the data; there are {_list(speakers)}")
        if twice := [speaker for speaker in fold if any(speaker in other for other in folds)]:
            raise UsageError(f"--folds {word}: speaker {_list(twice)} is in another fold already")
        if len(fold) == len(speakers):
            raise UsageError(f"--folds {word}: this leaves no speaker to train on; there are {_list(speakers)}")
        folds.append(fold)
    return folds


def make_plan(options: argparse.Namespace, extra: Sequence[str]) -> Plan:
    """Check the command line, and ask the data for their speakers.

    Args:
        options: our own arguments: ``size``, ``folds``, ``seeds``, ``out``.
        extra: arguments of ``fit``.

    Raises:
        UsageError: something in it is wrong, or the data know no speakers.
        DataError: the data are missing or damaged.
    """
    if options.seeds < 1:
        raise UsageError(f"--seeds is {options.seeds}; expected 1 or more")
    arguments = ["fit", *_QUIET_OPTIONS, *extra]
    checker = CommandLineCheck(arguments)
    config = checker.config["fit"]
    if config.get("ckpt_path") is not None:
        raise UsageError("--ckpt_path: every fold begins anew, or it would know the speakers that are left out")
    if config.trainer.fast_dev_run:
        raise UsageError("--trainer.fast_dev_run leaves no run to test; use --trainer.max_epochs 1")
    speakers = _speakers(config.data)
    if config.data.init_args.test_speakers is not None:
        raise UsageError("data.test_speakers: name the speakers to leave out with --folds, not here")
    given = {word.partition("=")[0] for word in extra}
    asked = not given.isdisjoint({"--data.val_speakers", "--data.init_args.val_speakers"})
    if not asked and config.data.init_args.val_speakers is None:
        arguments.append("--data.val_speakers=[]")
        checker.parse_arguments(checker.parser, arguments)
        config = checker.config["fit"]
    folds = read_folds(options.folds, speakers) if options.folds else make_folds(speakers, options.size)
    for fold in folds:
        _check_validation(fold, speakers, config.data.init_args.val_speakers)
    seed = config.seed_everything if type(config.seed_everything) is int else 0
    name = config_name(first_config(config))
    plain = flatten_config(checker.plain_config())
    return Plan(
        arguments,
        {key: value for key, value in comparable_config(plain).items() if key != "seed_everything"},
        folds,
        list(range(seed, seed + options.seeds)),
        options.out or Path(config.trainer.default_root_dir or DEFAULT_ROOT) / "folds" / name,
    )


def _speakers(data: Any) -> list[Speaker]:
    """The speakers of the data that a config describes."""
    module, _, name = data.class_path.rpartition(".")
    kind = getattr(import_module(module), name)
    if not issubclass(kind, SHDData | FolderData):
        raise UsageError(
            f"data.class_path is {data.class_path}, which knows no speakers to leave out; expected "
            "ss_lightning.data.SHDData, or a folder of recordings (AudioFolderData, EventFolderData, ...)"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "data")
    return parser.instantiate_classes(parser.parse_object({"data": data.as_dict()})).data.speakers()


def _check_validation(fold: Fold, speakers: Sequence[Speaker], val_speakers: list[Speaker] | None) -> None:
    """Refuse validation speakers that leave none to train on, before the first training.

    Raises:
        UsageError: they do, or one of them is not known.
    """
    others = [speaker for speaker in speakers if speaker not in fold]
    try:
        if all(type(speaker) is int for speaker in speakers):
            held_out_speakers(np.array(others), cast(list[int] | None, val_speakers))
        elif val_speakers and (unknown := set(map(str, val_speakers)) - set(map(str, speakers))):
            raise UsageError(f"val_speakers: no speaker {_list(sorted(unknown))} in the data")
        elif val_speakers and set(map(str, others)) <= set(map(str, val_speakers)):
            raise UsageError(f"val_speakers: holding out {_list(val_speakers)} leaves no speaker to train on")
    except UsageError as error:
        raise UsageError(f"without {_list(fold)}: {error}") from error


@dataclass(frozen=True)
class FoldTask:
    """A training of the plan.

    Attributes:
        fold: the speakers that it leaves out.
        seed: its seed.
    """

    fold: Fold
    seed: int

    def __str__(self) -> str:
        return f"without {_list(self.fold)}, seed {self.seed}"


@dataclass(frozen=True)
class FoldTraining:
    """What trains and tests for a task. It is a class of its own to be sent to another process.

    Attributes:
        arguments: of the plan.
        folder: of the plan.
    """

    arguments: tuple[str, ...]
    folder: Path

    def __call__(self, task: FoldTask, ask: Ask) -> None:
        """Train without the speakers of a fold and test the last checkpoint on them."""
        silence_lightning()
        training, test = _folders(self.folder, task.fold, task.seed)
        for folder in (training, test):
            # What is left of a fold that was stopped.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        left_out = json.dumps(list(task.fold))
        run_command([*self.arguments, f"--data.test_speakers={left_out}", f"--seed_everything={task.seed}"], training)
        # The config beside the checkpoint is the one that was written just now.
        evaluation = ["test", "--ckpt_path", str(training / "checkpoints" / "last.ckpt"), "--verbose=false"]
        run_command(evaluation, test, typed=self.arguments)


def read_fold(folder: Path, fold: Fold, seed: int) -> dict[str, Any] | None:
    """The result of a fold from the files of its training and test; None if it is not done.

    Args:
        folder: that of the folds.
        fold: the speakers that were left out.
        seed: of the training.

    Raises:
        DataError: one of the files is damaged.
    """
    training, _ = _folders(folder, fold, seed)
    if not (training / "summary.json").is_file() or not (training / "config.yaml").is_file():
        return None
    found = read_run(training)
    metrics = found.tests.get("last")
    if found.summary.get("state") != "finished" or metrics is None:
        return None
    facts = found.summary.get("facts", {})
    missing = [name for name in _METRICS if f"test/{name}" not in metrics]
    missing += [name for name, content in (("parameters", facts), ("seconds", found.summary)) if name not in content]
    if missing:
        raise DataError(
            f"{training} or its test has no {missing[0]} in its summary.json. Delete the folder to run it again"
        )
    return {
        "speakers": _list(fold),
        "seed": seed,
        **{name: metrics[f"test/{name}"] for name in _METRICS},
        "parameters": facts["parameters"],
        "seconds": found.summary["seconds"],
    }


def _folders(folder: Path, fold: Fold, seed: int) -> tuple[Path, Path]:
    """Where the training and the test of a fold are."""
    name = _fold_name(list(map(str, fold)))
    return folder / f"without_{name}" / f"version_{seed}", folder / f"without_{name}" / f"test_{seed}"


def _fold_name(speakers: Sequence[str]) -> str:
    """Speakers as a part of a folder's name, another one for other speakers.

    Where a name needs signs that no folder can have, is long, or could be that of other speakers, on a disk that knows
    no capital letters too, a hash is added.
    """
    name = "_".join(speakers)
    if len(name) <= 80 and all(re.fullmatch(r"[a-z0-9.+-]+", speaker) for speaker in speakers):
        return name
    digest = hashlib.sha256(json.dumps(speakers).encode()).hexdigest()[:8]
    shown = name if len(name) <= 80 else f"{speakers[0][:40]}_to_{speakers[-1][:40]}"
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '-', shown)}_{digest}"


def over_folds(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each metric over the folds.

    Args:
        rows: one mapping per training with ``speakers`` and the metrics. What counts of a fold is its mean over the
            seeds.

    Returns:
        For each metric ``mean``, ``deviation`` (the standard deviation of the sample of folds, None if there is one
        fold only), ``lowest`` and ``lowest_speakers``, the fold that it is of.
    """
    result: dict[str, dict[str, Any]] = {}
    for name in _METRICS:
        found = over_groups((row["speakers"], row[name]) for row in rows)
        deviation = None if math.isnan(found.deviation) else found.deviation
        result[name] = {
            "mean": found.mean,
            "deviation": deviation,
            "lowest": found.lowest,
            "lowest_speakers": found.lowest_group,
        }
    return result


def write_results(plan: Plan, rows: Sequence[Mapping[str, Any]], command: str) -> None:
    """Write ``folds.csv``, a row per training, and ``folds.json``, what the folds give together."""
    with write_whole(plan.folder / "folds.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "state": "finished" if len(rows) == len(plan.trainings()) else "running",
        "command_line": command,
        "folds": [list(fold) for fold in plan.folds],
        "seeds": plan.seeds,
        "seconds": round(math.fsum(row["seconds"] for row in rows), 3),
        **(over_folds(rows) if rows else {}),
        "config": plan.config,
    }
    save_text(plan.folder / FOLDS_SUMMARY, json.dumps(summary, indent=2) + "\n")


def _refuse_another(plan: Plan) -> None:
    """A folder holds the folds of one config; seeds may be added."""
    known = read_folds_summary(plan.folder)
    if known is None:
        return
    before = {"folds": known["folds"], **comparable_config(with_new_names(known["config"]))}
    # Through JSON, as the other was stored.
    now = json.loads(json.dumps({"folds": plan.folds, **plan.config}))
    changes = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise UsageError(
            f"{plan.folder} holds folds of another config: {'; '.join(changes)}. Choose another folder with --out, or "
            "delete that one"
        )


class FoldQueue(JobQueue[FoldTask, None]):
    """The trainings of a plan that are not done yet, and a line for each that is.

    Args:
        plan: the plan.
        command: the command line that it comes from.
        output: where lines are written, and the bar.
    """

    def __init__(self, plan: Plan, command: str, output: Output) -> None:
        self._plan = plan
        self._command = command
        self._output = output
        self._found: dict[FoldTask, dict[str, Any]] = {}
        self._tasks = [FoldTask(fold, seed) for fold, seed in plan.trainings()]
        for task in self._tasks:
            if (row := read_fold(plan.folder, task.fold, task.seed)) is not None:
                self._add(task, row, "  (done before)")
        self._left = [task for task in self._tasks if task not in self._found]

    def rows(self) -> list[dict[str, Any]]:
        """One row per training that is done, in the order of the plan."""
        return [self._found[task] for task in self._tasks if task in self._found]

    def take(self) -> FoldTask | None:
        """The next training that is not done."""
        if not self._left:
            return None
        # Written first: whoever goes on must find what this folder holds.
        write_results(self._plan, self.rows(), self._command)
        return self._left.pop(0)

    def end(self, task: FoldTask, result: None) -> None:
        """Read what a training has left.

        Raises:
            UsageError: it was stopped.
        """
        row = read_fold(self._plan.folder, task.fold, task.seed)
        if row is None:
            raise UsageError(f"the training without speaker {_list(task.fold)} was stopped; the same command goes on")
        self._add(task, row)
        write_results(self._plan, self.rows(), self._command)

    def _add(self, task: FoldTask, row: dict[str, Any], remark: str = "") -> None:
        self._found[task] = row
        done = len(self._found)
        self._output.show(done)
        self._output.say(
            f"[{done}/{len(self._tasks)}] without {row['speakers']}  seed {task.seed}  accuracy {row['accuracy']:.4f}  "
            f"spikes {row['spikes_per_sample']:.1f}  {row['seconds']:.0f} s{remark}"
        )


def run_folds(plan: Plan, command: str, jobs: int = 1) -> list[dict[str, Any]]:
    """Run what is not done yet, a line for each training.

    Args:
        plan: what is to be run.
        command: the command line that it comes from.
        jobs: trainings side by side.

    Returns:
        One row per training.

    Raises:
        UsageError: the folder holds folds of another config.
    """
    _refuse_another(plan)
    training = FoldTraining(tuple(plan.arguments), plan.folder)
    with progress("trainings", len(plan.trainings())) as output:
        queue = FoldQueue(plan, command, output)
        if jobs == 1:
            run_in_turn(queue, training)
        else:
            run_side_by_side(queue, training, jobs, output.say)
    write_results(plan, queue.rows(), command)
    return queue.rows()


def _list(speakers: Sequence[Speaker]) -> str:
    return ",".join(map(str, speakers))


def main(arguments: list[str]) -> int:
    """Run all folds, and say what they give together.

    Raises:
        UsageError: an argument is wrong, or the folder holds other folds.
        DataError: the data are missing or damaged.
    """
    parser = WordsParser(
        "folds",
        description="Leave speakers out in turn: train on all others, of all parts of the data (of the training file "
        "alone with --data.exclude_test_file true), and test the last checkpoint on those left out. The same command "
        "again goes on with folds that were stopped.",
        epilog="All other arguments go to every training, as for fit: --config configs/shd.yaml --data.root data. No "
        "speakers are kept for validation unless data.val_speakers is given (null here: a sixth of the others).",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--size", type=int, default=1, help="speakers in a fold, in their order (default: 1)")
    which.add_argument("--folds", nargs="+", metavar="SPEAKERS", help="the folds instead, such as 0,1 2,3")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each fold (default: 1)")
    parser.add_argument("--out", type=Path, help="folder of the results; by default runs/folds/<name of the config>")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings side by side, which share the cores (default: 1)"
    )
    options, extra = parser.parse_known_args(arguments)
    check_jobs(options.jobs)
    silence_lightning()
    plan = make_plan(options, extra)
    with at_place_of_user(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        with ends_by_sigterm(), FileLock(plan.folder / ".lock", timeout=0):
            rows = run_folds(plan, command_line(["folds", *arguments]), options.jobs)
    except Timeout as error:
        raise UsageError(f"another process is at the folds in {plan.folder}; wait for it, or choose --out") from error
    except (KeyboardInterrupt, SystemExit) as error:
        return say_stopped(error)
    together = over_folds(rows)
    accuracy, spikes = together["accuracy"], together["spikes_per_sample"]
    deviation = "" if accuracy["deviation"] is None else f" ± {accuracy['deviation']:.4f}"
    print(f"accuracy  {accuracy['mean']:.4f}{deviation} over {len(plan.folds)} folds")
    print(f"worst     {accuracy['lowest']:.4f}, speakers {accuracy['lowest_speakers']}")
    print(f"spikes    {spikes['mean']:.1f} per sample, hidden")
    print(f"table     {display_path(plan.folder / 'folds.csv')}")
    print(f"summary   {display_path(plan.folder / FOLDS_SUMMARY)}")
    return 0
