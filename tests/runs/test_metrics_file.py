"""``metrics.csv``: one row an epoch, whenever the parts of it come."""

import csv

import pytest

from ss_lightning.runs import MetricsLogger, checkpoints


@pytest.fixture
def logger(tmp_path):
    return MetricsLogger(tmp_path, "", version="run", flush_logs_every_n_steps=1)


def rows(logger):
    with open(f"{logger.log_dir}/metrics.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_training_and_validation_are_one_row(logger):
    for epoch in range(3):
        step = 10 * epoch + 9
        logger.log_metrics({"epoch": epoch, "val/accuracy": 0.5 + epoch / 10, "val/loss": 2}, step)
        assert rows(logger)[epoch]["val/accuracy"], "written at once"
        logger.log_metrics({"epoch": epoch, "train/loss": 12.5 - epoch}, step)
        logger.save()
    assert [row["epoch"] for row in rows(logger)] == ["0", "1", "2"]
    assert rows(logger)[2] == {
        "epoch": "2", "step": "29", "train/loss": "10.5", "val/accuracy": "0.7", "val/loss": "2",
    }  # fmt: skip


def test_other_steps_and_values_that_come_twice_are_rows_of_their_own(logger):
    logger.log_metrics({"epoch": 0, "val/loss": 3}, 4)
    logger.log_metrics({"epoch": 0, "val/loss": 2}, 9)
    logger.log_metrics({"epoch": 0, "train/loss": 1}, 9)
    logger.log_metrics({"epoch": 0, "val/loss": 5}, 9)
    logger.log_metrics({"epoch": 1, "train/loss": 6}, 9)
    found = [(row["step"], row.get("val/loss"), row.get("train/loss")) for row in rows(logger)]
    assert found == [("4", "3", None), ("9", "2", "1"), ("9", "5", None), ("9", None, "6")]


def test_a_metric_that_comes_late_widens_the_file(logger):
    logger.log_metrics({"epoch": 0, "a": 1}, 4)
    logger.log_metrics({"epoch": 1, "a": 2}, 9)
    logger.log_metrics({"epoch": 1, "b": 3}, 9)
    assert rows(logger) == [{"epoch": "0", "step": "4", "a": "1"}, {"epoch": "1", "step": "9", "a": "2", "b": "3"}]


def test_a_row_that_cannot_be_written_leaves_the_file_as_it_was_and_comes_later(logger, monkeypatch, capsys):
    logger.log_metrics({"epoch": 0, "a": 1}, 4)
    logger.log_metrics({"epoch": 0, "b": 2}, 4)
    logger.log_metrics({"epoch": 1, "a": 3}, 9)
    before = rows(logger)

    def full(keys, rows):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_lines", full)
        logger.log_metrics({"epoch": 1, "b": 4}, 9)
        logger.log_metrics({"epoch": 2, "a": 5}, 14)
        assert rows(logger) == before
    logger.log_metrics({"epoch": 2, "b": 6}, 14)
    assert rows(logger)[1:] == [
        {"epoch": "1", "step": "9", "a": "3", "b": "4"}, {"epoch": "2", "step": "14", "a": "5", "b": "6"},
    ]  # fmt: skip


def test_a_training_that_goes_on_joins_the_rows_of_an_older_version(tmp_path, logger):
    (tmp_path / "metrics.csv").write_text("epoch,step,a,b\n0,4,,2\n0,4,1,\n1,9,,4\n1,9,3,\n", encoding="utf-8")
    for step, metrics in checkpoints.metrics_before(tmp_path, 9):
        logger.log_metrics(metrics, step)
    assert rows(logger) == [{"epoch": "0", "step": "4", "a": "1", "b": "2"}]
