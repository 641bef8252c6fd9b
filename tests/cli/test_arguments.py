"""What a user types, before anything is trained."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ss_lightning.cli import main
from ss_lightning.cli.arguments import configs_first, with_config_of_run
from ss_lightning.errors import UsageError
from ss_lightning.runs.folders import config_name

ROOT = Path(__file__).parents[2]
YINYANG = str(ROOT / "configs/yinyang.yaml")
WANDB = str(ROOT / "configs/wandb.yaml")
WHOLE = "model: {class_path: ss_lightning.MLPClassifier}\ndata: {class_path: ss_lightning.data.YinYangData}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capsys, *words):
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


class TestFirstWord:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["train"], "there is no subcommand train. Did you mean fit?"),
            (["Eval"], "Did you mean test?"),
            (["tune"], "Did you mean sweep?"),
            (["PREDIC"], "Did you mean predict?"),
            (["configs/yinyang.yaml"], "python -m ss_lightning fit --config configs/yinyang.yaml"),
            (["a/best.ckpt"], "python -m ss_lightning test --ckpt_path a/best.ckpt"),
            (
                ["--config", "a.yaml", "test"],
                "the first word says what to do, options follow: python -m ss_lightning test",
            ),
        ],
    )
    def test_that_stands_for_nothing(self, words, said, capsys):
        assert said in answer(capsys, *words)

    @pytest.mark.parametrize("word", ["help", "-h", "--help", "version", "-V", "--version"])
    def test_that_only_prints(self, word, capsys):
        assert main([word]) == 0
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["configs/x.yaml"], "Write --config configs/x.yaml"),
        (["runs/best.ckpt"], "Write --ckpt_path runs/best.ckpt"),
        (["model.hidden=[200]"], "Write --model.hidden=[200]"),
        (["trainer.max_epochs", "3"], "Write --trainer.max_epochs 3"),
        (["-config", "x.yaml"], "Write --config"),
        (["\N{EN DASH}config", "x.yaml"], "Write --config"),
        (["--model.hidden", "200", "100"], "A list is written --model.hidden [200,100]"),
        (["--model.hidden", "[200,", "100]"], "A list is written --model.hidden [200,100]"),
        (["--print_config", "now"], "now belongs to no option"),
        (["--config"], "--config: name a file"),
        (["--config", "."], ". is a folder"),
    ],
)
def test_words_that_no_option_takes(words, said, capsys):
    assert said in answer(capsys, "fit", *words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.yaml is empty"),
        ("# nothing yet\n", "x.yaml is empty"),
        ("- a\n- b\n", "x.yaml holds a list"),
        ("hello\n", "x.yaml holds a text"),
        ("learning_rate: 3\nlayers: [2]\n", "is no config of a training: it has learning_rate, layers"),
        ("method: grid\nparameters: {}\nmetric: {}\n", "python -m ss_lightning sweep x.yaml"),
        ("trainer:\n\tmax_epochs: 3\n", "x.yaml, line 2: this is no valid YAML"),
        ("seed_everything: 1\nmodel: [\n  a: b\n", "x.yaml, line 2: "),
        (b"\xf2\x00\x81", "x.yaml is no text"),
        ("a: \x00\n", "x.yaml is no text"),
    ],
)
def test_files_that_are_no_config(text, said, capsys, folder):
    (folder / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said in answer(capsys, "fit", "--config", "x.yaml")


def test_an_overlay_alone(capsys):
    assert "nothing says which model and which data to use" in answer(capsys, "fit", "--config", WANDB)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimizer", "adam"], "Did you mean torch.optim.Adam?"),
        (["--lr_scheduler", "cosine"], "Did you mean torch.optim.lr_scheduler.Cosine"),
        (["--model", "MLPClasifier"], "Did you mean ss_lightning.MLPClassifier?"),
        (["--data", "shd"], "Did you mean ss_lightning.data.SHDData?"),
        (["--optimizer.lr", "0,01"], "optimizer.lr: expected a number, got 0,01. Write 0.01"),
        (["--trainer.max_epochs", "1.5"], "trainer.max_epochs: expected a whole number or null, got 1.5"),
        (["--epochs", "3"], "Did you mean trainer.max_epochs?"),
        (["--batch_size", "3"], "Did you mean data.batch_size?"),
        (["--optimizer.lr", "-1"], "optimizer.lr: torch.optim.Adam does not take -1.0"),
        (["--optimizer.betas", "[1.5,0.9]"], "optimizer.betas: torch.optim.Adam does not take (1.5, 0.9)"),
        (
            ["--lr_scheduler.T_max", "0"],
            "lr_scheduler.T_max: torch.optim.lr_scheduler.CosineAnnealingLR does not take 0",
        ),
        (["--trainer.accelerator", "gqu"], "trainer.accelerator: there is no gqu. Did you mean gpu?"),
        (["--trainer.accelerator", "tpu"], "Use --trainer.accelerator "),
    ],
)
def test_values(words, said, capsys):
    assert said in answer(capsys, "fit", "--config", YINYANG, *words)
    assert not Path("runs").exists()


def test_a_graphics_card_that_is_not_there(capsys, monkeypatch):
    for kind in ("CUDAAccelerator", "MPSAccelerator"):
        monkeypatch.setattr(f"lightning.pytorch.accelerators.{kind}.is_available", lambda: False)
    said = answer(capsys, "fit", "--config", YINYANG, "--trainer.accelerator", "gpu")
    assert "trainer.accelerator is gpu, but torch finds no such device" in said
    assert "Use --trainer.accelerator cpu" in said


@pytest.mark.parametrize(("given", "taken"), [("200", [200]), ("200,100", [200, 100]), ("[3]", [3])])
@pytest.mark.parametrize("form", ["--model.hidden {}", "--model.hidden={}"])
@pytest.mark.slow
def test_a_list_without_brackets(given, taken, form, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--config", YINYANG, *form.format(given).split(), "--print_config"])
    assert "".join(f"    - {size}\n" for size in taken) in capsys.readouterr().out


def test_a_list_without_brackets_in_a_config(capsys):
    Path("x.yaml").write_text(Path(YINYANG).read_text().replace("hidden: [120]", "hidden: 200"))
    assert "model.hidden: expected a list" in (said := answer(capsys, "fit", "--config", "x.yaml"))
    assert "Write [200]" in said


def test_what_is_typed_goes_over_configs_wherever_it_stands():
    assert configs_first(["fit", "--a", "1", "-c", "x", "--b=2", "--config=y"]) == [
        "fit", "--config", "x", "--config", "y", "--a", "1", "--b=2",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [["--model.help"], ["--model.help", "--config", YINYANG]])
def test_help_of_a_class_that_is_not_named(words, capsys):
    if len(words) == 1:
        assert "ss_lightning.ConvClassifier" in answer(capsys, "fit", *words)
        return
    with pytest.raises(SystemExit) as stop:
        main(["fit", *words])
    assert stop.value.code == 0
    assert "--model.tau_hidden_ms" in capsys.readouterr().out


class TestConfigOfTheRun:
    @pytest.fixture(autouse=True)
    def runs(self, folder):
        """A run of configs/mine.yaml, an overlay, a config of another name."""
        run = folder / "runs/mine/version_0"
        (run / "checkpoints").mkdir(parents=True)
        with zipfile.ZipFile(run / "checkpoints/best.ckpt", "w") as archive:
            archive.writestr("a", "b")
        (run / "config.yaml").write_text(WHOLE)
        (folder / "configs").mkdir()
        for name in ("mine", "other"):
            (folder / f"configs/{name}.yaml").write_text(WHOLE)
        (folder / "over.yaml").write_text("trainer: {logger: false}\n")

    CKPT = "runs/mine/version_0/checkpoints/best.ckpt"
    OWN = ("--config", "runs/mine/version_0/config.yaml")

    def test_a_config_picks_the_run(self):
        words = with_config_of_run(["test", "--config", "configs/mine.yaml", "--data.seed", "3"])
        assert words == ["test", *self.OWN, "--data.seed", "3", f"--ckpt_path={self.CKPT}"]

    @pytest.mark.parametrize("first", [True, False])
    def test_an_overlay_goes_over_it(self, first):
        configs = ["configs/mine.yaml", "over.yaml"] if first else ["over.yaml", "configs/mine.yaml"]
        words = with_config_of_run(["predict", "--config", configs[0], "--config", configs[1]])
        assert words == ["predict", *self.OWN, "--config", "over.yaml", f"--ckpt_path={self.CKPT}"]

    @pytest.mark.parametrize("subcommand", ["test", "fit"])
    def test_an_overlay_beside_a_checkpoint(self, subcommand):
        words = with_config_of_run([subcommand, "--config", "over.yaml", "--ckpt_path", self.CKPT])
        assert words[:5] == [subcommand, *self.OWN, "--config", "over.yaml"]

    def test_the_run_of_a_checkpoint_whose_config_is_named_as_well(self):
        words = with_config_of_run(["test", "--config", "configs/mine.yaml", "--ckpt_path", self.CKPT])
        assert words[:3] == ["test", *self.OWN]
        assert "configs/mine.yaml" not in words

    @pytest.mark.parametrize(
        "words",
        [
            ["test", "--config", "configs/other.yaml", "--ckpt_path", CKPT],
            ["fit", "--config", "configs/mine.yaml", "--ckpt_path", CKPT],
            ["fit", "--config", "configs/mine.yaml", "--ckpt_path", "last"],
            ["fit", "--config", "configs/mine.yaml"],
        ],
    )
    def test_whole_configs_that_are_taken_as_they_are(self, words):
        assert with_config_of_run(words) == words

    def test_the_checkpoint_that_a_resumed_run_came_from_is_not_the_one_to_test(self, folder):
        (folder / self.OWN[1]).write_text(f"{WHOLE}ckpt_path: runs/mine/version_9/checkpoints/last.ckpt\n")
        words = with_config_of_run(["test", "--config", "configs/mine.yaml"])
        assert words[-1] == f"--ckpt_path={self.CKPT}"

    def test_another_root(self, folder):
        (folder / "runs").rename(folder / "elsewhere")
        words = with_config_of_run(["test", "--config", "configs/mine.yaml", "--trainer.default_root_dir=elsewhere"])
        assert words[:3] == ["test", "--config", "elsewhere/mine/version_0/config.yaml"]

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("runs/mine/version_0/checkpoints/bets.ckpt", rf"there is no file .*Did you mean {CKPT}"),
            ("runs/mine/version_0", f"is a folder, not a checkpoint. Did you mean {CKPT}"),
            ("configs", "is a folder, not a checkpoint. There is none in it"),
        ],
    )
    def test_a_checkpoint_that_is_not_there(self, path, said):
        for config in ([], ["--config", "over.yaml"], ["--config", "configs/mine.yaml"]):
            with pytest.raises(UsageError, match=said):
                with_config_of_run(["test", *config, "--ckpt_path", path])

    def test_no_run(self):
        with pytest.raises(UsageError, match=r"no run in runs/other has a checkpoints/best.ckpt"):
            with_config_of_run(["test", "--config", "configs/other.yaml"])


def test_runs_of_a_packaged_recipe():
    assert config_name(Path("site-packages/ss_lightning/recipes/paper/shd.yaml")) == "paper/shd"


def test_what_only_prints_imports_nothing_large():
    code = (
        "import sys; from ss_lightning.cli import main\n"
        "for words in (['--help'], ['--version'], ['configs'], ['train'], ['fit', '--help']): main(words)\n"
        "print([n for n in ('torch', 'lightning', 'jsonargparse', 'numpy') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
