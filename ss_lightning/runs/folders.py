"""Run folders: ``<root>/<config name>/version_<n>/`` with config, metrics and checkpoints, never written over."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ss_lightning.errors import NoRoomError, UsageError
from ss_lightning.files import display_path

DEFAULT_ROOT = Path("runs")


def config_name(config: Path | None, root: Path = DEFAULT_ROOT) -> str:
    """Name of the runs of a configuration file that go below the folder ``root``.

    The path below a folder called ``configs``, or ``recipes`` in the installed package, without its ending
    (``configs/paper/shd.yaml`` is ``paper/shd``), else the name of the file. A ``config.yaml`` saved in a run folder
    belongs to the runs beside it.
    """
    if config is None:
        return "default"
    parts = config.resolve().with_suffix("").parts
    if config.name == "config.yaml" and _is_run(config.parent):
        run = config.parent.resolve()
        above = [folder for folder in run.parents if folder.name == DEFAULT_ROOT.name]
        for folder in (root.resolve(), *above):
            if folder in run.parents:
                return run.parent.relative_to(folder).as_posix()
        return run.parent.name
    for below in range(len(parts) - 2, -1, -1):
        if parts[below] in ("configs", "recipes"):
            return Path(*parts[below + 1 :]).as_posix()
    return parts[-1]


def _is_run(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir() or folder.resolve().name.startswith("version_")


def reserve_run(folder: Path, kind: str = "version") -> Path:
    """Create the next free ``<folder>/<kind>_<n>``; two processes never get the same one.

    Raises:
        UsageError: the folder cannot be created or written.
    """
    try:
        taken = [-1, *(int(p.name.rpartition("_")[2]) for p in _numbered(folder, kind))]
        number = max(taken) + 1
        while True:
            run = folder / f"{kind}_{number}"
            _make_folder(folder)
            try:
                run.mkdir()
            except FileExistsError:
                number += 1
                continue
            except FileNotFoundError:  # another process has just removed the folder, which was empty
                continue
            probe = run / ".writable"
            probe.touch()
            probe.unlink()
            return run
    except OSError as error:
        raise NoRoomError(
            f"cannot write the run folder {folder}: {error.strerror or error}. "
            "Choose another place with --trainer.default_root_dir DIR"
        ) from error


def _make_folder(folder: Path) -> None:
    for attempt in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except (FileNotFoundError, FileExistsError):  # another process removes empty folders on the way
            if attempt == 99 or folder.is_symlink():
                raise


# What a command puts into its folder before it has brought anything.
_BEGINNING = ("config.yaml", "hparams.yaml", "summary.json")


def holds_results(run: Path) -> bool:
    """Whether a command has put more into its run folder than the description of what it was about to do."""
    files = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_symlink() or not path.is_dir())
    return any(file not in _BEGINNING for file in files)


def is_first_process(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this is the only process of a run or the first of several, however they were started.

    Args:
        environment: where torchrun (RANK), SLURM (SLURM_PROCID) and Lightning (NODE_RANK, LOCAL_RANK) say it; that of
            this process if not given.
    """
    variables = os.environ if environment is None else environment
    for name in ("RANK", "SLURM_PROCID"):
        if name in variables:
            return variables[name] == "0"
    return all(variables.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def find_checkpoint(folder: Path, name: str) -> Path:
    """``checkpoints/<name>.ckpt`` of the newest run in ``folder`` that has a whole one.

    Raises:
        UsageError: no run has such a checkpoint.
    """
    runs = sorted(_numbered(folder, "version"), key=lambda run: int(run.name.rpartition("_")[2]), reverse=True)
    for run in runs:
        checkpoint = run / "checkpoints" / f"{name}.ckpt"
        if checkpoint.is_file():
            if is_whole(checkpoint):
                return checkpoint
            print(f"{display_path(checkpoint)} is damaged and is passed over", file=sys.stderr)
    raise UsageError(
        f"--ckpt_path {name}: there is none, no run in {folder} has a checkpoints/{name}.ckpt. "
        "Train first (fit), or give the path of a checkpoint file"
    )


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint file (a zip archive) is complete, by the checksums in it."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # what zipfile says to a wrong byte depends on where it is
        return False


def config_beside(checkpoint: Path) -> Path | None:
    """The ``config.yaml`` of the run that a checkpoint file lies in, if there is one."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    return None


def _numbered(folder: Path, kind: str) -> list[Path]:
    return [p for p in folder.glob(f"{kind}_*") if p.name.rpartition("_")[2].isdecimal()]
