import json
import shlex
import statistics
from pathlib import Path

import pytest
import yaml

from ss_lightning import plots
from ss_lightning.cli.commands import main
from ss_lightning.cli.lightning_cli import CommandLineCheck
from ss_lightning.cli.results import command_of_all, data_name, draw_curve, make_rows, network_name, read_results
from ss_lightning.runs.configs import flatten_config
from ss_lightning.runs.reading import FOLDS_SUMMARY, read_run

YINYANG = str(Path(__file__).parents[2] / "configs/yinyang.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    return tmp_path


def make_run(
    number, accuracy=None, seed=0, hidden=(12,), neuron="single", checkpoint="best", at="runs/yinyang", **more
):
    """A run as ``fit`` and ``test`` leave it; ``more`` goes over what its summary has."""
    run = Path(at) / f"version_{number}"
    run.mkdir(parents=True)
    network = {"hidden": list(hidden), "neuron": neuron, "estimator": "survival"}
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 3, "default_root_dir": None},
        "model": {"init_args": network},
        "data": {"class_path": "ss_lightning.data.YinYangData", "init_args": {"num_test": 40}},
        **more.pop("config", {}),
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summary = {
        "state": "finished", "command": "fit", "seconds": 10.0 + number, "written": f"2026-01-01T00:00:{number:02}",
        "command_line": f"python -m ss_lightning fit --config c.yaml --seed_everything {seed}",
        "facts": {
            "parameters": 1234, "device": "cpu", "machine": "A|B, 2 cores", "threads": 1,
            "git_commit": "0123456789-dirty",
        },
        **more,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps({name: value for name, value in summary.items() if value is not None}))
    if accuracy is not None:
        make_test(run, number, accuracy, config, checkpoint)
    return run


def make_test(run, number, accuracy, config, checkpoint="best"):
    test = run.parent / f"test_{number}"
    test.mkdir()
    (test / "config.yaml").write_text(yaml.safe_dump(config))
    names = {
        "accuracy": accuracy, "spikes_per_sample": 100 * accuracy, "dead_fraction": 0.25, "synops_per_sample": 1e4,
        "energy_nj": 2e3 * accuracy, "energy_dense_nj": 3456.0, "energy_dense_loop_nj": 1e5,
    }  # fmt: skip
    content = {
        "state": "finished", "command": "test", "checkpoint": f"{run}/checkpoints/{checkpoint}.ckpt",
        "metrics": {f"test/{name}": value for name, value in names.items()},
    }  # fmt: skip
    (test / "summary.json").write_text(json.dumps(content))


def results(*arguments):
    return main(["results", *map(str, arguments)])


def table(path="RESULTS.md"):
    """What the entry of each row says, by name; the tables of the data sets hold the same."""
    page = Path(path).read_text(encoding="utf-8")
    tables, _, entries = page.partition("## Entries")
    found = []
    for number, entry in enumerate(entries.split("### Entry ")[1:], start=1):
        lines = [line.replace(r"\|", "\0")[2:-2].split(" | ") for line in entry.splitlines() if line.startswith("| ")]
        cells = {name: cell.replace("\0", "|") for name, cell in lines[2:]}
        (row,) = [line for line in tables.splitlines() if line.endswith(f"[{number}](#entry-{number}) |")]
        in_table = row.replace(r"\|", "\0")[2:-2].replace("\0", "|").split(" | ")[:-1]
        assert in_table == [cells[name] for name in ("network", "test accuracy, %", "hidden spikes", "seconds", "runs")]
        found.append(cells)
    return found


class TestRows:
    def test_seeds_form_one_row_and_other_configs_another(self):
        runs = [make_run(number, 0.96 + 0.01 * number, seed=number) for number in range(3)]
        runs.append(make_run(3, 0.5, hidden=(20, 5)))
        assert results(*runs) == 0
        first, second = table()
        assert first["data"] == "YinYang"
        assert (first["network"], second["network"]) == (
            "single (survival), hidden 12",
            "single (survival), hidden 20-5",
        )
        assert first["runs"] == "seeds 0, 1, 2"
        assert (first["test accuracy, %"], first["worst, %"]) == ("97.00 ± 1.00", "96.00")
        assert (second["test accuracy, %"], second["runs"]) == ("50.00", "seed 0")
        assert (first["hidden spikes"], first["dead"], first["synaptic operations"]) == ("97.0", "25.0%", "10,000")
        assert first["energy, nJ"] == "1,940.0 (dense network 3,456.0, dense loop 100,000.0)"
        assert (first["parameters"], first["seconds"], first["machine"]) == ("1,234", "11", "A|B, 2 cores, 1 thread")
        assert first["command"] == "`python -m ss_lightning fit --config c.yaml`"
        assert first["commit"] == "0123456-dirty"
        assert f"python -m ss_lightning results {runs[0]}" in Path("RESULTS.md").read_text()

    def test_settings_without_effect_make_no_row_of_their_own(self):
        def run(number, **model):
            config = {"model": {"init_args": {"hidden": [12], **model}}}
            make_run(number, 0.5, seed=number, config=config)

        run(0, neuron="multi", estimator="survival")
        run(1, neuron="multi", estimator="masked", batch_norm=False, padding=0, delay_width_ms=None)
        run(2, neuron="single", estimator="survival")
        run(3, neuron="single", estimator="masked")
        run(4, neuron="multi", estimator="masked", batch_norm=True)
        assert results("runs") == 0
        assert sorted(row["runs"] for row in table()) == ["seed 2", "seed 3", "seed 4", "seeds 0, 1"]

    def test_a_repeated_run_counts_once_and_the_newest_of_them(self):
        for number, accuracy in enumerate([0.1, 0.2, 0.9]):
            make_run(number, accuracy, seed=number % 2)
        assert results("runs") == 0
        (row,) = table()
        assert row["runs"] == "seeds 0, 1"
        assert row["test accuracy, %"].startswith("55.00 ± ")

    def test_best_and_last_weights_are_not_mixed(self):
        make_run(0, 0.8)
        make_run(1, 0.9, seed=1, checkpoint="last")
        assert results("runs") == 0
        assert [(row["weights"], row["test accuracy, %"]) for row in table()] == [("best", "80.00"), ("last", "90.00")]

    def test_what_is_missing_is_said(self):
        make_run(0, command_line=None, facts=None, seconds=None, written=None)
        make_run(1, 0.75, hidden=(7,))
        make_run(2, seed=1, hidden=(7,))
        assert results("runs") == 0
        old, partly = table()
        assert old["test accuracy, %"] == "not tested"
        for name in ("command", "parameters", "seconds", "machine", "commit"):
            assert old[name] == "not recorded"
        for name in ("weights", "worst, %", "hidden spikes", "dead", "synaptic operations", "energy, nJ"):
            assert old[name] == ""
        assert partly["runs"] == "seed 0; 1 more not tested"
        assert partly["test accuracy, %"] == "75.00"

    def test_a_test_of_an_earlier_version_has_no_energy(self):
        make_run(0, 0.5)
        path = Path("runs/yinyang/test_0/summary.json")
        summary = json.loads(path.read_text())
        summary["metrics"] = {name: value for name, value in summary["metrics"].items() if "energy" not in name}
        path.write_text(json.dumps(summary))
        assert results("runs") == 0
        (row,) = table()
        assert row["energy, nJ"] == "not recorded"

    def test_what_did_not_end_is_left_out(self, capsys):
        make_run(0, 0.9, state="failed", error="ValueError: no")
        assert results("runs") == 1
        printed = capsys.readouterr()
        assert "note  runs/yinyang/version_0 is left out: failed after epoch 0 of 3: ValueError: no" in printed.out
        assert "no run has come to its end yet" in printed.err
        make_run(1, 0.8, seed=1)
        assert results("runs") == 0
        assert [row["runs"] for row in table()] == ["seed 1"]

    def test_a_test_on_other_data_is_none_of_the_run(self, capsys):
        run = make_run(0, 0.9)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"]["init_args"]["num_test"] = 4
        make_test(run, 1, 1.0, config)
        assert results(run) == 0
        assert "test_1 is left out: data.init_args.num_test is 4, in the training 40" in capsys.readouterr().out
        assert [row["test accuracy, %"] for row in table()] == ["90.00"]

    @pytest.mark.parametrize(("limit", "accuracy"), [(1, "not tested"), (0.5, "not tested"), (1.0, "80.00")])
    def test_a_test_on_a_part_of_the_data_does_not_count(self, limit, accuracy, capsys):
        run = make_run(0)
        config = yaml.safe_load((run / "config.yaml").read_text())
        make_test(run, 0, 0.8, {**config, "trainer": {**config["trainer"], "limit_test_batches": limit}})
        assert results("runs") == 0
        assert table()[0]["test accuracy, %"] == accuracy
        assert ("it saw a part of the data" in capsys.readouterr().out) == (accuracy == "not tested")

    def test_a_part_of_the_data_that_the_training_was_asked_for_counts(self):
        config = {"trainer": {"max_epochs": 3, "limit_test_batches": 1}}
        make_run(0, 0.8, config=config)
        assert results("runs") == 0
        assert table()[0]["test accuracy, %"] == "80.00"

    @pytest.mark.parametrize(("file", "content"), [("config.yaml", ""), ("summary.json", "null"), ("metrics.csv", "a")])
    def test_a_damaged_run_is_left_out_unless_it_is_named(self, file, content, capsys):
        broken = make_run(0, 0.5)
        make_run(1, 0.9, seed=1)
        (broken / file).write_text(content)
        assert results("runs") == 0
        assert [row["test accuracy, %"] for row in table()] == ["90.00"]
        said = f"{broken / file} is damaged"
        assert said in capsys.readouterr().out
        assert results(broken) == 1
        assert said in capsys.readouterr().err

    def test_how_a_run_was_done_makes_no_row_of_its_own(self):
        for number in range(3):
            config = make_run(number, config={}) / "config.yaml"
            content = yaml.safe_load(config.read_text())
            content["data"]["init_args"] |= {"num_workers": number, "batch_size": 8}
            content["trainer"]["enable_progress_bar"] = bool(number)
            config.write_text(yaml.safe_dump({**content, "seed_everything": number}))
            make_test(config.parent, number, 0.5, content)
        assert results("runs") == 0
        (row,) = table()
        assert row["runs"] == "seeds 0, 1, 2"

    def test_a_checkpoint_of_another_folder_is_none_of_the_run(self):
        run, other = make_run(0), make_run(0, at="runs/other")
        make_test(run, 0, 0.9, yaml.safe_load((run / "config.yaml").read_text()))
        content = (run.parent / "test_0/summary.json").read_text().replace(str(run), str(other))
        (run.parent / "test_0/summary.json").write_text(content)
        assert read_run(run).tests == {}


def make_folds(state="finished"):
    """Two folds of two seeds: .6 and .8 of the one, twice .5 of the other."""
    at = Path("runs/folds/shd")
    for speaker, accuracies in ((3, (0.6, 0.8)), (7, (0.5, 0.5))):
        for seed, accuracy in enumerate(accuracies):
            data = {"class_path": "ss_lightning.data.SHDData", "init_args": {"root": "a/b", "test_speakers": [speaker]}}
            config = {"data": data}
            make_run(seed, accuracy, seed, at=at / f"without_{speaker}", config=config, checkpoint="last")
    command = "python -m ss_lightning folds --config shd.yaml --seeds 2"
    (at / FOLDS_SUMMARY).write_text(json.dumps({"state": state, "command_line": command}))
    return at


class TestFolds:
    def test_all_folds_form_one_row(self):
        at = make_folds()
        assert results(at) == 0
        (row,) = table()
        assert (row["data"], row["runs"], row["weights"]) == ("SHD (b)", "2 folds, seeds 0, 1", "last")
        # Over the means of the folds, .7 and .5.
        deviation = 100 * statistics.stdev([0.7, 0.5])
        assert row["test accuracy, %"] == f"60.00 ± {deviation:.2f}"
        assert row["worst, %"] == "50.00"
        assert row["command"] == "`python -m ss_lightning folds --config shd.yaml --seeds 2`"

    def test_among_other_runs(self):
        make_folds()
        make_run(0, 0.9)
        assert results("runs") == 0
        assert [row["runs"] for row in table()] == ["2 folds, seeds 0, 1", "seed 0"]

    def test_some_are_missing(self, capsys):
        assert results(make_folds("running")) == 0
        assert "not all folds are done" in capsys.readouterr().out


class TestJson:
    def test_a_table_from_the_file_is_the_same(self):
        make_folds()
        make_run(0, 0.9)
        assert results("runs", "--json=results/results.json") == 0
        first = table()
        assert results("results/results.json", "--out=again.md") == 0
        assert table("again.md") == first
        # Beside new runs: what is there already is not counted twice.
        make_run(1, 0.7, seed=1)
        assert results("results/results.json", "runs", "--json=results/results.json") == 0
        assert [row["runs"] for row in table()] == ["2 folds, seeds 0, 1", "seeds 0, 1"]

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": [{}]}', '{"results": 3}'])
    def test_another_file(self, content, capsys):
        Path("some.json").write_text(content)
        assert results("some.json") == 1
        assert "some.json is no file that `results --json` wrote" in capsys.readouterr().err


class TestCurve:
    def test_lines_differ_in_more_than_the_width(self, monkeypatch):
        for number, (neuron, width) in enumerate([("single", 8), ("single", 16), ("multi", 8), ("multi", 16)]):
            for seed in (0, 1):
                accuracy = 0.5 + width / 100 + 0.02 * seed
                make_run(2 * number + seed, accuracy, seed, hidden=(width,), neuron=neuron)
        longer = {"trainer": {"max_epochs": 9}}
        make_run(8, 0.9, hidden=(8,), neuron="multi", config=longer)
        drawn = {}
        panels = plots.panels
        monkeypatch.setattr(plots, "panels", lambda rows, *rest: drawn.update(rows) or panels(rows, *rest))
        assert results("runs", "--curve=curve.png") == 0
        assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
        lines = drawn["test accuracy"]["YinYang"]
        assert list(lines) == ["single (survival)", "multi, max_epochs=3", "multi, max_epochs=9"]
        line = lines["single (survival)"]
        assert line.y == pytest.approx([0.59, 0.67])
        assert line.x == pytest.approx([59, 67])
        assert line.error == pytest.approx([statistics.stdev([0, 0.02])] * 2)
        assert line.names == ["8", "16"]

    def test_names_hold_no_more_than_tells_lines_apart(self, monkeypatch):
        for number, (epochs, slope, lr) in enumerate([(3, 2, 0.1), (9, 2, 0.2), (9, 5, 0.2)]):
            changes = {"trainer": {"max_epochs": epochs}, "optimizer": {"lr": lr}, "slope": slope}
            make_run(number, 0.5, config=changes)
        drawn = {}
        panels = plots.panels
        monkeypatch.setattr(plots, "panels", lambda rows, *rest: drawn.update(rows) or panels(rows, *rest))
        assert results("runs", "--curve=curve.png") == 0
        names = [f"single (survival), lr={lr}, slope={slope}" for lr, slope in ((0.1, 2), (0.2, 2), (0.2, 5))]
        assert list(drawn["test accuracy"]["YinYang"]) == names

    @pytest.mark.parametrize(("accuracies", "scale"), [([0.05, 0.9], "log"), ([0.4, 0.9], "linear")])
    def test_spikes_over_more_than_a_decade_have_a_logarithmic_axis(self, accuracies, scale):
        for number, accuracy in enumerate(accuracies):
            make_run(number, accuracy, hidden=(8 + number,))
        (axis,) = draw_curve(make_rows(read_results(Path("runs")))).axes
        assert axis.get_xscale() == scale

    def test_nothing_to_draw(self, capsys):
        make_run(0)
        assert results("runs", "--curve=curve.png") == 2
        assert "none of the runs was tested" in capsys.readouterr().err


@pytest.mark.slow
def test_from_real_runs():
    """What the commands leave is what the table tells, and its command is one that the command line takes."""
    small = ["--data.num_train=96", "--data.num_val=40", "--data.num_test=40", "--data.num_steps=20"]
    small += ["--model.hidden=[16]", "--trainer.max_epochs=1", "--pictures.every_n_epochs=0"]
    accuracies = []
    for seed in (0, 1):
        assert main(["fit", "--config", YINYANG, *small, "--seed_everything", str(seed)]) == 0
        run = Path(f"runs/yinyang/version_{seed}")
        assert main(["test", "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
        (metrics,) = read_run(run).tests.values()
        accuracies.append(100 * metrics["test/accuracy"])
    assert results("runs", "--json=results.json") == 0
    (row,) = table()
    assert row["test accuracy, %"] == f"{statistics.fmean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
    assert " core" in row["machine"]
    words = shlex.split(row["command"].strip("`"))
    assert words[:3] == ["python", "-m", "ss_lightning"]
    config = flatten_config(CommandLineCheck(words[3:]).plain_config())
    saved = read_results(Path("results.json"))[0].config
    assert {key: config[key] for key in saved} == saved
    assert len(saved) > 20


@pytest.mark.parametrize(
    "command",
    [
        "fit --seed_everything 3 -c 'a b'", "fit -c 'a b' --seed_everything=3", "fit --ckpt_path last -c 'a b'",
        "fit -c 'a b' --ckpt_path=x.ckpt",
    ],
)  # fmt: skip
def test_seed_and_checkpoint_are_no_part_of_the_command(command):
    assert command_of_all(command) == "fit -c 'a b'"


def test_names():
    assert data_name({"data.class_path": "x.MNISTData", "data.init_args.root": "a"}) == "MNIST"
    assert data_name({"data.class_path": "x.SHDData", "data.init_args.root": "a/spoken"}) == "SHD (spoken)"
    assert data_name({"data.class_path": "x.SHDData", "data.init_args.root": "."}) == "SHD"
    for kind in ("ImageFolder", "EventFolder", "AudioFolder"):
        own = {"data.class_path": f"ss_lightning.data.{kind}Data"}
        assert data_name(own | {"data.init_args.root": "a/my birds"}) == "my birds"
        assert data_name(own | {"data.init_args.root": "."}) == kind
    dataset = {"data.init_args.dataset.class_path": "tonic.datasets.DVSGesture", "data.init_args.root": "a"}
    assert data_name({"data.class_path": "ss_lightning.data.TonicData", **dataset}) == "DVSGesture"
    conv = {"model.init_args.neuron": "multi", "model.init_args.channels": [4, 8], "model.init_args.hidden": [9]}
    assert network_name(conv) == "multi, convolutions 4-8, hidden 9"
    assert network_name({}) == "not recorded, hidden not recorded"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        (["empty"], "empty has no run in it"),
        (["--outt=x", "runs"], "outt"),
        (["runs", "--out=/proc/nowhere/x"], "--out: cannot write /proc/nowhere/x"),
    ],
)
def test_mistakes(arguments, message, capsys):
    make_run(0, 0.5)
    Path("empty").mkdir()
    assert results(*arguments) == 2
    assert message in capsys.readouterr().err


def test_no_results_make_no_rows():
    assert make_rows([]) == []
