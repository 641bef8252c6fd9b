"""Run folders of someone else, damaged or hostile: what `report`, `results` and `export` make of them."""

import base64
import json
import os
from pathlib import Path

import pytest
import yaml

from ss_lightning import plots
from ss_lightning.cli.commands import main
from ss_lightning.cli.markdown import as_block, as_code, as_text
from ss_lightning.cli.sweep import as_option
from ss_lightning.errors import DataError
from ss_lightning.export.checkpoint_export import _num_steps

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SUMMARY = {
    "state": "finished", "command": "fit", "command_line": "python -m ss_lightning fit", "written": "2026-01-01",
    "seconds": 1.0, "metrics": {"val/accuracy": 0.5}, "facts": {"parameters": 3, "machine": "cpu", "device": "cpu"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "png", lambda figure, dpi=130: PNG)
    return tmp_path


def make_run(name, summary=SUMMARY, config=None):
    run = Path("runs/x") / name
    (run / "pictures/epoch_0001").mkdir(parents=True)
    text = config if isinstance(config, str) else yaml.safe_dump(config or {"trainer": {"max_epochs": 1}})
    (run / "config.yaml").write_text(text)
    (run / "metrics.csv").write_text("epoch,step,train/loss,val/accuracy\n0,7,1.5,0.5\n")
    (run / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return run


WRONG_TYPES = [("state", 1), ("command", []), ("command_line", 3), ("written", None), ("seconds", "long"),
    ("metrics", [1]), ("metrics", {"val/accuracy": "high"}), ("facts", "none"), ("facts", {"parameters": "many"}),
    ("facts", {"machine": 3}), ("facts", {"git_commit": ["a"]}), ("checkpoint", {}), ("error", 7)]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES)
@pytest.mark.parametrize("command", ["report", "results"])
def test_a_damaged_summary_costs_its_own_row_only(command, key, value, capsys):
    good, bad = make_run("version_0"), make_run("version_1", {**SUMMARY, key: value})
    assert main([command, str(good), str(bad)]) == 0
    assert "version_1/summary.json is damaged" in capsys.readouterr().out
    assert main([command, str(bad)]) == 1
    assert "version_1/summary.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "summary",
    ["", "null", "[]", "{", "1" * 5000, "[" * 10000, '{"seconds": ' + "1" * 5000 + "}"],
)
def test_a_summary_that_is_none(summary, capsys):
    assert main(["report", str(make_run("version_0", summary))]) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["state", "metrics", "checkpoint", "command"])
def test_a_damaged_test_is_left_out(key, capsys):
    run = make_run("version_0")
    test = make_run("test_0", {**SUMMARY, "command": "test", "checkpoint": f"{run}/checkpoints/best.ckpt", key: 3})
    assert main(["results", str(run)]) == 0
    assert f"{test} is left out" in capsys.readouterr().out


CONFIGS = ["3", "[1, 2]", "a: [", "a: 2024-99-99", "a: " + "1" * 5000, "a: &a [*a]", "[" * 3000,
    "a: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.slow
def test_a_config_that_is_none(config, capsys):
    run = make_run("version_0", config=config)
    assert main(["report", str(run)]) == 1
    assert "config.yaml" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"config\.yaml"):
        _num_steps(run / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.csv", "pictures/epoch_0001/readout.png"])
def test_a_link_out_of_the_run_is_not_followed(name, tmp_path, capsys):
    run = make_run("version_0")
    secret = tmp_path / "secret"
    secret.write_bytes(PNG + b"secret" if name.endswith("png") else b"secret: 12345\n")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(secret)
    picture = name.endswith("png")
    assert main(["report", str(run)]) == (0 if picture else 1)
    said = capsys.readouterr()
    assert "is a link to a file outside of the run" in said.out + said.err
    if picture:
        assert base64.b64encode(secret.read_bytes()).decode()[:100] not in (run / "report.html").read_text()


def test_only_pictures_are_shown_as_pictures(capsys):
    run = make_run("version_0")
    drawn = run / "pictures/epoch_0001"
    (drawn / "readout.png").write_text("root:x:0:0")
    (drawn / "hidden_raster.png").symlink_to("nowhere.png")
    (drawn / "input_raster.png").mkdir()
    os.mkfifo(drawn / "dead_neurons.png")
    assert main(["report", str(run)]) == 0
    assert "readout.png is left out: it is no PNG picture" in capsys.readouterr().out
    assert base64.b64encode(b"root:x").decode()[:8] not in (run / "report.html").read_text()


def test_names_stay_text_in_markdown():
    name = "a|b <script>alert(1)</script> [x](javascript:1) `c` **d**\n| e"
    run = make_run("version_0", {**SUMMARY, "command_line": "fit ` | \n```"}, {"data": {"class_path": f"x.{name}"}})
    assert main(["results", str(run)]) == 0
    page = Path("RESULTS.md").read_text()
    assert "<script>" not in page
    assert "](javascript" not in page.replace("\\](javascript", "")
    rows = [line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")]
    assert rows == [7] * 3 + [3] * 17  # a table of one row, and its entry


def test_markdown():
    assert as_text("a_b <c> & [d]") == "a_b &lt;c&gt; &amp; \\[d\\]"
    assert as_code("a `b` | c") == "`` a `b` \\| c ``"
    assert as_block("x\n```", "bash") == "````bash\nx\n```\n````"


def test_a_command_with_half_a_quote(capsys):
    run = make_run("version_0", {**SUMMARY, "command_line": "fit --name 'half"})
    assert main(["results", str(run)]) == 0
    assert "fit --name 'half" in Path("RESULTS.md").read_text()


def test_nothing_can_be_given_back_to_the_command_line():
    assert as_option("trainer.gradient_clip_val", None) == "--trainer.gradient_clip_val=null"
    assert as_option("trainer.max_epochs", 3) == "--trainer.max_epochs=3"
