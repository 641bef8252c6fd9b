import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from ss_lightning import plots
from ss_lightning.cli.commands import main
from ss_lightning.cli.report import render_report, run_names
from ss_lightning.runs.configs import config_differences
from ss_lightning.runs.reading import read_run

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "png", lambda figure, dpi=130: PNG)
    return tmp_path


def make_run(name="version_0", epochs=3, planned=3, hidden=(12,), accuracy=0.5, **summary):
    run = Path("runs/yinyang") / name
    (run / "pictures/epoch_0003").mkdir(parents=True)
    (run / "pictures/epoch_0003/readout.png").write_bytes(PNG)
    config = {"trainer": {"max_epochs": planned}, "model": {"init_args": {"hidden": list(hidden)}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    names = "val/accuracy,val/spikes_per_sample,val/dead_fraction,val/energy_nj,val/energy_dense_nj"
    rows = [f"epoch,step,train/loss,{names}"]
    for epoch in range(epochs):
        rows += [
            f"{epoch},{epoch * 8 + 7},,{accuracy + epoch / 10},{20 + epoch},0.25,1234.56,9876.5",
            f"{epoch},{epoch * 8 + 7},1.5,,,,,",
        ]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    content = {"state": "finished", "command": "fit", "seconds": 4.2, "facts": {"parameters": 1234}, **summary}
    (run / "summary.json").write_text(json.dumps(content))
    return run


def make_test(run, accuracy):
    folder = run.parent / "test_0"
    folder.mkdir()
    content = {
        "state": "finished", "command": "test", "checkpoint": f"{run}/checkpoints/best.ckpt",
        "metrics": {"test/accuracy": accuracy},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


class Page(HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "srcset")]
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data.split()


def report(*runs):
    assert main(["report", *map(str, runs)]) == 0


class TestPage:
    def test_one_run(self, capsys):
        run = make_run()
        make_test(run, 0.8125)
        report(run)
        assert "report  runs/yinyang/version_0/report.html" in capsys.readouterr().out
        text = (run / "report.html").read_text()
        page = Page(text)
        assert page.open == []
        assert {"0.7000", "22.0", "25.0%", "1,234.6", "9,876.5", "1,234", "0.8125", "finished"} <= set(page.words)

    def test_needs_nothing_from_outside(self):
        run = make_run()
        report(run)
        text = (run / "report.html").read_text()
        page = Page(text)
        assert len(page.images) == 4
        assert page.links == page.images
        assert all(link.startswith("data:image/png;base64,") for link in page.links)
        assert base64.b64decode(page.images[0].partition(",")[2]) == PNG
        assert not re.search(r"https?://|url\(|@import|<script|<link", text)
        assert '<meta name="viewport" content="width=device-width' in text

    def test_several_runs_side_by_side(self):
        runs = [make_run("version_0"), make_run("version_1", hidden=(20,), accuracy=0.6)]
        report(*runs)
        page = Page(Path("runs/yinyang/report.html").read_text())
        assert "model.init_args.hidden" in page.words
        assert {"[12]", "[20]"} <= set(page.words)
        assert len(page.images) == 4 + 2

    def test_what_comes_from_files_is_text_only(self):
        run = make_run(error="<script>alert(1)</script>", state="failed")
        report(run)
        text = (run / "report.html").read_text()
        assert "<script>" not in text
        assert "&lt;script&gt;" in text

    def test_output(self, capsys):
        report(make_run(), "--output", "page.html")
        assert Path("page.html").is_file()
        assert main(["report", "runs/yinyang/version_0", "--output", "/proc/no/page.html"]) == 2
        assert "cannot write /proc/no/page.html" in capsys.readouterr().err


class TestUnfinishedAndBroken:
    @pytest.mark.parametrize(
        ("summary", "said"),
        [
            ({"state": "running", "written": "2024-05-01T10:00"}, "not finished, epoch 2 of 3 at 2024-05-01T10:00"),
            ({"state": "interrupted"}, "interrupted after epoch 2 of 3"),
            ({"state": "failed", "error": "OSError: disk full"}, "failed after epoch 2 of 3: OSError: disk full"),
        ],
    )
    def test_unfinished_runs_are_reported_as_such(self, summary, said, capsys):
        run = make_run(epochs=2, **summary)
        report(run)
        assert said in capsys.readouterr().out
        assert said in (run / "report.html").read_text()

    def test_a_run_of_before_there_were_summaries(self):
        run = make_run(epochs=2)
        (run / "summary.json").unlink()
        assert read_run(run).state == "not finished, epoch 2 of 3"

    def test_before_the_first_epoch_has_ended(self, capsys):
        run = make_run(state="running")
        (run / "metrics.csv").unlink()
        assert main(["report", str(run)]) == 1
        assert "error: nothing to report, no epoch has come to its end yet" in capsys.readouterr().err
        report(run, make_run("version_1"))

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("metrics.csv", b"epoch,loss\n0,1.0\n1,oops\n"),
            ("metrics.csv", b"loss\n1.0\n"),
            ("metrics.csv", b'epoch,loss\n0,"1'),
            ("metrics.csv", b"\xff\xfe\x00"),
            ("config.yaml", b"trainer: [\n"),
            ("config.yaml", b""),
            ("summary.json", b'{"state": '),
        ],
    )
    def test_damaged_files(self, file, content, capsys):
        run = make_run()
        (run / file).write_bytes(content)
        assert main(["report", str(run)]) == 1
        error = capsys.readouterr().err
        assert f"error: {run / file} is damaged" in error
        assert "Traceback" not in error

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("runs/none", "there is no run folder runs/none"),
            ("runs/yinyang", "it has no config.yaml. Did you mean runs/yinyang/version_0?"),
            ("runs/yinyang/version_0/checkpoints", "Runs are folders like"),
            ("runs/yinyang/test_0", "not a training but a test"),
        ],
    )
    def test_other_folders(self, given, said, capsys):
        run = make_run()
        (run / "checkpoints").mkdir()
        shutil.copy(run / "config.yaml", make_test(run, 0.5))
        assert main(["report", given]) == 2
        assert said in capsys.readouterr().err

    def test_no_run_named(self, capsys):
        assert main(["report"]) == 2
        assert "runs" in capsys.readouterr().err


def test_names_and_differences():
    assert run_names([Path("a/b/x/v0"), Path("a/b/y/v0")]) == ["x/v0", "y/v0"]
    assert run_names([Path("a/b/x/v0")]) == ["x/v0"]
    runs = [read_run(make_run("version_0")), read_run(make_run("version_1", planned=5))]
    assert config_differences([run.config for run in runs]) == {"trainer.max_epochs": [3, 5]}


def test_runs_on_different_data_are_kept_apart():
    for number, (data, accuracy) in enumerate((("YinYangData", 0.5), ("SHDData", 0.2), ("YinYangData", 0.6))):
        run = make_run(f"version_{number}", accuracy=accuracy, command_line=f"fit --data {data} {number}")
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        config["data"] = {
            "class_path": f"ss_lightning.data.{data}",
            "init_args": {"root": "data", "batch_size": number},
        }
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    page = render_report([read_run(Path(f"runs/yinyang/version_{number}")) for number in range(3)])
    assert "Runs on 2 data sets, each compared with those on the same one." in page
    assert page.index("<h2>YinYangData, data</h2>") < page.index("<h2>SHDData, data</h2>")
    first = page[page.index("<h2>YinYangData, data</h2>") : page.index("<h2>SHDData, data</h2>")]
    assert "yinyang/version_0" in first
    assert "yinyang/version_2" in first
    assert "yinyang/version_1" not in first


def test_command_date_and_train_accuracy_are_there():
    run = make_run(command_line="python -m ss_lightning fit --config a.yaml", written="2026-11-28T13:21:05+00:00")
    (run / "metrics.csv").write_text("epoch,step,train/accuracy,val/accuracy\n0,7,0.625,0.5\n", encoding="utf-8")
    page = render_report([read_run(run)])
    assert "<pre>python -m ss_lightning fit --config a.yaml</pre>" in page
    assert "2026\N{NON-BREAKING HYPHEN}11\N{NON-BREAKING HYPHEN}28 13:21 UTC" in page
    assert '<td data-label="train accuracy">0.6250</td>' in page


def test_the_confusion_matrix_of_a_test_is_shown():
    run = make_run()
    test = make_test(run, 0.75)
    (test / "pictures").mkdir()
    (test / "pictures/confusion_matrix.png").write_bytes(PNG)
    assert "Which class is taken for which in the test set (best)" in render_report([read_run(run)])
