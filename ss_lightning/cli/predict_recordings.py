"""``python -m ss_lightning predict --recordings FILE...``: what a trained network says of recordings without labels."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import pandas as pd
import torch
from jsonargparse import ArgumentParser

from ss_lightning.arrays import TimeUnit
from ss_lightning.cli.arguments import check_checkpoint_file, check_config_files
from ss_lightning.cli.lightning_cli import CommandLineCheck
from ss_lightning.cli.recipes import find_recipe
from ss_lightning.data import EventDataModule, RecordingFormat
from ss_lightning.data.recording_files import READERS, Reader, Recording, read_recordings, recording_files
from ss_lightning.errors import DataError, UsageError
from ss_lightning.export import load
from ss_lightning.files import display_path, save_text, write_for_user
from ss_lightning.parsing import parse_arguments
from ss_lightning.prediction import Prediction, classify_currents, classify_recordings
from ss_lightning.runs.folders import DEFAULT_ROOT, config_beside, config_name, find_checkpoint, reserve_run
from ss_lightning.runs.predictions import check_ending
from ss_lightning.runs.reading import read_config
from ss_lightning.runs.record import command_line

_SHOWN = 10


class Left(NamedTuple):
    """A file that is left out, and why."""

    file: Path
    reason: str


def main(arguments: list[str]) -> int:
    """Classify recordings; write a table, show its beginning and say where it is.

    Args:
        arguments: the words behind ``predict``.

    Returns:
        0, or 1 if files were left out.

    Raises:
        UsageError: the checkpoint, a file or an argument is not there or makes no sense.
        DataError: not one file could be read.
    """
    asks_for_help = not {"--help", "-h"}.isdisjoint(arguments)
    options = parse_arguments(_parser(), ["--help"] if asks_for_help else arguments)
    root = Path(options.trainer.default_root_dir or DEFAULT_ROOT)
    checkpoint = _checkpoint(options.ckpt_path, options.config, root)
    print(f"checkpoint   {display_path(checkpoint)}")
    model = load(checkpoint)
    if model.recording_format is None:
        raise UsageError(
            f"{checkpoint} does not say how recordings look: it was not trained on a data module of ss_lightning, or "
            "by a version that did not keep that. In Python, set model.recording_format"
        )
    config = config_beside(checkpoint)
    readers, time_unit = _readers(config, model.recording_format.input_shape)
    files = recording_files(options.recordings, readers)
    found, left = _read(files, options.time_unit or time_unit, readers, model.recording_format)
    if not found:
        raise DataError(left[0].reason)
    model.to(_device(options.trainer.accelerator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of times behind the grid, which was said with the name of the file
        answers = list(_classified(model.network, model.recording_format, found))
    output = _place(options.output, options.format, config, root)
    table = pd.DataFrame([_row(recording, answer) for recording, answer in zip(found, answers, strict=True)])
    _write(table, output)
    if options.output is None:
        summary = {
            "state": "finished",
            "command": "predict",
            "command_line": command_line(["predict", *arguments]),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "checkpoint": str(checkpoint),
            "recordings": len(found),
            "left_out": [file.reason for file in left],
        }
        save_text(output.parent / "summary.json", json.dumps(summary, indent=2) + "\n")
    read = len(files) - len(left)
    print(f"recordings   {len(found):,} in {read:,} {'file' if read == 1 else 'files'}\n")
    print(_shown(table))
    print(f"\npredictions  {display_path(output)}")
    for file in left:
        print(f"left out  {file.reason}", file=sys.stderr)
    return 1 if left else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m ss_lightning predict",
        usage="python -m ss_lightning predict --ckpt_path FILE --recordings FILE_OR_FOLDER ... [--KEY VALUE ...]",
        description="Classify recordings without labels: .npz with times and units, .h5 in the layout of SHD, tables "
        "(.csv, .tsv, .txt) with an event a line, and what else the data module of the training reads.",
        exit_on_error=False,
    )
    parser.add_argument("--recordings", nargs="+", type=str, required=True, help="files, or folders of such files")
    parser.add_argument(
        "--ckpt_path", type=str, help="the weights; if not given, the best of the newest run of --config"
    )
    parser.add_argument(
        "--config",
        "-c",
        action="append",
        default=[],
        help="the config of the training, to find its newest run; of several the first, which names the run",
    )
    parser.add_argument(
        "--time_unit",
        type=str,
        choices=("s", "ms", "us"),
        help="unit of times in files that do not say it; if not given, that of the training data",
    )
    parser.add_argument("--format", type=str, choices=("csv", "json", "parquet"), default="csv", help="file to write")
    parser.add_argument("--output", type=str, help="the file; if not given, in a new folder beside the run")
    parser.add_argument("--trainer.accelerator", type=str, choices=("auto", "cpu", "cuda", "gpu", "mps"), default="cpu")
    parser.add_argument("--trainer.default_root_dir", type=str, help="where run folders are (runs)")
    return parser


def _checkpoint(path: str | None, configs: Sequence[str], root: Path) -> Path:
    if path not in (None, "best", "last"):
        check_checkpoint_file(path)
        return Path(path)
    if not configs:
        raise UsageError("name the trained network: --ckpt_path FILE, or --config FILE for its newest run")
    check_config_files(["predict", *(f"--config={config}" for config in configs)])
    where = Path(configs[0]) if Path(configs[0]).is_file() else find_recipe(configs[0])
    return find_checkpoint(root / config_name(where, root), path or "best")


def _readers(config: Path | None, input_shape: Sequence[int]) -> tuple[Mapping[str, Reader], TimeUnit]:
    """What reads which ending, and the unit of times, as far as the data module of a run knows more than all do."""
    path = None if config is None else read_config(config).get("data.class_path")
    if path is None:
        return READERS, "s"
    if path.partition(".")[0] == "ss_lightning":
        known = resolve_name(path)
        if getattr(known, "recording_readers", None) is EventDataModule.recording_readers:
            return READERS, "s"
    data = CommandLineCheck(["fit", "--config", str(config)]).config["fit"].data  # what may be imported
    known, options = resolve_name(data.class_path), data.init_args.as_dict()
    if not issubclass(known, EventDataModule):
        return READERS, "s"
    data = known(**{name: value for name, value in options.items() if name != "augment"})
    return data.recording_readers(input_shape), data.recording_time_unit


def _read(
    files: Sequence[Path], time_unit: TimeUnit, readers: Mapping[str, Reader], form: RecordingFormat
) -> tuple[list[Recording], list[Left]]:
    """The recordings that fit the network, and the files that do not."""
    found: list[Recording] = []
    left: list[Left] = []
    for file in files:
        try:
            recordings = read_recordings(file, time_unit, readers)
            for recording in recordings:
                if recording.currents is not None:
                    continue
                events = form.events(
                    [recording.times], [recording.units], recording.time_unit, recording.number, str(file)
                )
                if form.begins_too_late(events)[0]:
                    print(
                        f"note  {file}, sample {recording.number}: all events lie after the end of the time grid "
                        f"({form.num_steps * form.step_ms:g} ms), so the network sees none of them. Times are taken as "
                        f"{recording.time_unit} (--time_unit) and must begin at 0",
                        file=sys.stderr,
                    )
        except DataError as error:
            left.append(Left(file, str(error)))
            continue
        found += recordings
    return found, left


def _device(accelerator: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = {"gpu": "mps" if there["mps"] else "cuda"}.get(accelerator, accelerator)
    if name == "auto":
        name = next((kind for kind, is_there in there.items() if is_there), "cpu")
    if not there.get(name, True):
        raise UsageError(f"--trainer.accelerator {accelerator}: there is none here. Use cpu")
    return torch.device(name)


def _classified(network: Any, form: RecordingFormat, recordings: Sequence[Recording]) -> Iterator[Prediction]:
    for (time_unit, has_events), group in groupby(recordings, key=lambda r: (r.time_unit, r.currents is None)):
        some = list(group)
        if has_events:
            yield from classify_recordings(network, form, [r.times for r in some], [r.units for r in some], time_unit)
        else:
            yield from classify_currents(network, form, [r.currents for r in some if r.currents is not None])


def _row(recording: Recording, answer: Prediction) -> dict[str, Any]:
    return {
        "file": str(recording.file),
        "recording": recording.number,
        "prediction": answer.label,
        "name": answer.name,
        "probability": answer.probability,
        "decision_ms": answer.decision_ms,
        "hidden_spikes": answer.hidden_spikes,
    }


def _place(output: str | None, ending: str, config: Path | None, root: Path) -> Path:
    if output is None:
        return reserve_run(root / config_name(config, root), "predict") / f"predictions.{ending}"
    check_ending(Path(output))
    return Path(output)


def _write(table: pd.DataFrame, path: Path) -> None:
    with write_for_user(path) as scratch:
        if path.suffix == ".json":
            rows = table.to_dict("records")
            plain = [{name: None if _is_nan(value) else value for name, value in row.items()} for row in rows]
            save_text(scratch, json.dumps(plain, indent=1) + "\n")
        elif path.suffix == ".csv":
            table.to_csv(scratch, index=False)
        else:
            table.to_parquet(scratch, index=False)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(table: pd.DataFrame) -> str:
    """The first rows as text, rounded; of the files the names, or the paths where two have one name."""
    some = table.head(_SHOWN)
    names = [Path(file).name for file in some["file"]]
    if len(set(names)) < len(set(some["file"])):
        names = list(some["file"])
    several = bool(table["recording"].any())
    cells = [["file", *(["recording"] * several), "class", "probability", "decided", "hidden spikes"]]
    for name, (_, row) in zip(names, some.iterrows(), strict=True):
        decided = "never" if math.isnan(row["decision_ms"]) else f"{row['decision_ms']:.0f} ms"
        number = [str(row["recording"])] * several
        cells.append([name, *number, row["name"], f"{row['probability']:.3f}", decided, str(row["hidden_spikes"])])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    more = [f"... and {len(table) - _SHOWN:,} more"] if len(table) > _SHOWN else []
    return "\n".join([*lines, *more])
