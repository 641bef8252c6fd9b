import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from ss_lightning import UsageError
from ss_lightning.runs.folders import config_beside, config_name, find_checkpoint, reserve_run


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("configs/yinyang.yaml", "yinyang"),
        ("/a/configs/paper/shd.yaml", "paper/shd"),
        ("mine/first.yaml", "first"),
        (None, "default"),
    ],
)
def test_config_name(path, name):
    assert config_name(None if path is None else Path(path)) == name


@pytest.mark.parametrize("name", ["yinyang", "paper/shd"])
def test_the_config_of_a_run_belongs_to_the_runs_beside_it(tmp_path, name):
    run = reserve_run(tmp_path / "runs" / name)
    assert config_name(run / "config.yaml") == name
    # Also where the runs go elsewhere, below a folder of that name or not.
    for root in (tmp_path / "runs" / "mine", tmp_path / "elsewhere"):
        assert config_name(reserve_run(root / name) / "config.yaml", root) == name


def test_runs_count_up_and_never_reuse_a_folder(tmp_path):
    assert [reserve_run(tmp_path).name for _ in range(3)] == ["version_0", "version_1", "version_2"]
    (tmp_path / "version_0").rmdir()
    assert reserve_run(tmp_path).name == "version_3"
    assert reserve_run(tmp_path, "test").name == "test_0"


def test_runs_started_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: reserve_run(tmp_path), range(32)))
    assert len(set(runs)) == 32


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the run folder"):
        reserve_run(tmp_path / "file" / "runs")


def test_newest_checkpoint(tmp_path):
    for number in (0, 2, 10):
        folder = tmp_path / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        if number != 10:  # the newest run was stopped before its first checkpoint
            torch.save({}, folder / "last.ckpt")
    assert find_checkpoint(tmp_path, "last") == tmp_path / "version_2" / "checkpoints" / "last.ckpt"
    with pytest.raises(UsageError, match="there is none"):
        find_checkpoint(tmp_path, "best")


def test_config_beside_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert config_beside(checkpoint) is None
    (tmp_path / "config.yaml").touch()
    assert config_beside(checkpoint) == tmp_path / "config.yaml"
    assert os.fspath(config_beside(tmp_path / "any.ckpt")) == os.fspath(tmp_path / "config.yaml")


def reserve_and_remove(root, number, found):
    """What commands do that start at once and fail early, all but every third."""
    kept, errors = {}, []
    for turn in range(100):
        try:
            run = reserve_run(root / "name" / "of")
            if turn % 10 == 0:
                (run / "metrics.csv").write_text(f"{number} {turn}", encoding="utf-8")
                kept[run] = f"{number} {turn}"
            else:
                run.rmdir()
                with suppress(OSError):
                    run.parent.rmdir()
                    run.parent.parent.rmdir()
        except Exception as error:
            errors.append(repr(error))
        if turn == 60:
            for run in kept:  # so that the folders above become empty again and again
                shutil.rmtree(run)
            kept.clear()
    found.put((kept, errors))


def test_processes_that_reserve_and_remove_at_once_share_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=reserve_and_remove, args=(tmp_path, number, found)) for number in range(3)]
    for process in processes:
        process.start()
    results = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [errors for _, errors in results] == [[], [], []]
    kept = [run for runs, _ in results for run in runs]
    assert len(set(kept)) == len(kept) == 9
    for runs, _ in results:
        assert {run: (run / "metrics.csv").read_text(encoding="utf-8") for run in runs} == runs


def test_a_link_that_leads_nowhere_is_no_place_for_runs(tmp_path):
    (tmp_path / "runs").symlink_to("gone")
    with pytest.raises(UsageError, match="cannot write the run folder"):
        reserve_run(tmp_path / "runs")
    with pytest.raises(UsageError, match="cannot write the run folder"):
        reserve_run(tmp_path / "runs" / "name")
