"""What is built for a package index works in an empty folder, far from a checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from ss_lightning import __version__
from ss_lightning.cli.commands import main
from ss_lightning.cli.recipes import find_recipe, recipe_names, recipes_folder, with_packaged_recipes

ROOT = Path(__file__).parents[1]
SMALL = [
    "--data.num_train=40", "--data.num_val=10", "--data.num_test=10", "--trainer.max_epochs=1",
    "--pictures.every_n_epochs=0",
]  # fmt: skip


@pytest.mark.slow
def test_wheel_and_sdist(tmp_path):
    run = {"check": True, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 900}
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)], **run)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"configs/shd.yaml", "tests/conftest.py", "CITATION.cff", "LICENSE"} <= inside
    with zipfile.ZipFile(wheel) as archive:
        recipes = {
            name.replace("ss_lightning/recipes/", "configs/") for name in archive.namelist() if "recipes/" in name
        }
        assert recipes == set(recipe_names())
        assert not any(name.startswith(("tests/", "configs/", "docs/")) for name in archive.namelist())

    subprocess.run([sys.executable, "-m", "venv", "fresh"], **run)
    scripts = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], **run)
    # Its dependencies are those of this environment; this package itself comes from the wheel.
    (site,) = (tmp_path / "fresh").rglob("site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run |= {"cwd": empty, "env": environment}
    assert subprocess.run([python, "-m", "ss_lightning", "--version"], **run).stdout == f"ss_lightning {__version__}\n"
    command = [python, "-m", "ss_lightning", "fit", "--config", "configs/yinyang.yaml", *SMALL]
    said = subprocess.run(command, **run)
    assert f"configs/yinyang.yaml is the one that comes with ss_lightning {__version__}" in said.stderr
    assert "best checkpoint  runs/yinyang/version_0" in said.stdout.replace("\\", "/")


def test_a_recipe_is_found_in_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = str(recipes_folder() / "best" / "mnist.yaml")
    assert with_packaged_recipes(["fit", "--config", "configs/best/mnist.yaml"]) == ["fit", "--config", recipe]
    assert with_packaged_recipes(["fit", "--config=configs/best/mnist.yaml"]) == ["fit", f"--config={recipe}"]
    assert "comes with ss_lightning" in capsys.readouterr().err
    for other in ("mnist.yaml", "configs/absent.yaml", "configs/../configs/mnist.yaml", "/configs/mnist.yaml"):
        assert with_packaged_recipes(["--config", other]) == ["--config", other]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mnist.yaml").write_text("mine: true", encoding="utf-8")
    assert with_packaged_recipes(["--config", "configs/mnist.yaml"]) == ["--config", "configs/mnist.yaml"]


def test_a_job_does_not_say_again_what_its_command_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ss_lightning.cli.recipes.parent_process", lambda: "the command")
    arguments = with_packaged_recipes(["fit", "--config", "configs/cifar10.yaml"])
    assert arguments[2] != "configs/cifar10.yaml"
    assert capsys.readouterr().err == ""


def test_configs_lists_and_copies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(recipe_names())]] == recipe_names()
    assert any(line.startswith("configs/paper/shd.yaml ") and "300 hidden neurons" in line for line in lines)
    assert main(["configs", "configs/shd.yaml", "mine.yaml"]) == 0
    assert Path("mine.yaml").read_text(encoding="utf-8") == find_recipe("configs/shd.yaml").read_text(encoding="utf-8")
    assert main(["configs", "paper/shd.yaml"]) == 0
    assert Path("configs/paper/shd.yaml").is_file()
    capsys.readouterr()
    assert main(["configs", "shd.yaml", "mine.yaml"]) == 2
    assert "mine.yaml is there already" in capsys.readouterr().err
    assert main(["configs", "configs/shdd.yaml"]) == 2
    assert "Did you mean configs/shd.yaml?" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ss_lightning {__version__}\n"
