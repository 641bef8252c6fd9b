"""Output that cannot be written ends no command."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ss_lightning.cli import commands
from ss_lightning.cli.output import LastingOutput, make_output_last, output_is_incomplete


def stream_to(path_or_descriptor, seen):
    return LastingOutput(open(path_or_descriptor, "w", encoding="utf-8"), seen.append)


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("make", [lambda: "/dev/full", broken_pipe])
def test_a_stream_goes_on_into_nothing(make):
    if make() == "/dev/full" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    seen = []
    stream = stream_to(make(), seen)
    for n in range(3):
        print("line", n, file=stream, flush=True)
    stream.write("x" * 100_000)
    stream.flush()
    assert len(seen) == 1
    assert output_is_incomplete(stream) == (stream.error.errno != errno.EPIPE)
    assert os.write(stream.fileno(), b"also below the stream") > 0


def test_a_stream_that_works_is_left_alone(tmp_path):
    stream = stream_to(tmp_path / "out", [])
    print("grün", file=stream, flush=True)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "grün\n"
    assert not output_is_incomplete(stream)
    assert not output_is_incomplete(sys.stdout)


def test_a_sign_that_the_terminal_has_not_is_written_as_its_number(tmp_path):
    stream = LastingOutput((tmp_path / "out").open("w", encoding="ascii"), print)
    print("grün, 日", file=stream, flush=True)
    assert (tmp_path / "out").read_text(encoding="ascii") == "gr\\xfcn, \\u65e5\n"


@pytest.mark.slow
def test_files_are_utf8_in_an_ascii_locale(tmp_path):
    root = Path(__file__).parents[2]
    folder = tmp_path / "größe"
    folder.mkdir()
    config = (root / "configs" / "yinyang.yaml").read_text(encoding="utf-8")
    (folder / "köpfe.yaml").write_text(f"# Köpfe, 頭\n{config}", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    environment = {**os.environ, "PYTHONPATH": str(root), **ascii_only}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "ss_lightning", *arguments], cwd=folder, env=environment, capture_output=True,
            encoding="ascii", check=False,
        )  # fmt: skip

    small = ["--data.num_train=40", "--data.num_val=20", "--data.num_steps=20", "--model.hidden=[4]"]
    done = run("fit", "--config", "köpfe.yaml", *small, "--trainer.max_epochs=1", "--pictures.every_n_epochs=0")
    assert done.returncode == 0, done.stderr
    assert "best checkpoint  runs/k\\xf6pfe/version_0/checkpoints/best.ckpt" in done.stdout
    done = run("results", "runs/köpfe/version_0", "--json", "köpfe.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / "köpfe.json").read_text(encoding="utf-8"))
    assert "runs/köpfe/version_0" in written["command_line"]


def test_a_closed_stream_gets_a_place(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    make_output_last()
    print("nobody reads this", flush=True)
    assert not sys.stdout.isatty()


@pytest.mark.parametrize(("words", "code"), [(["--help"], 1), (["fit"], 0), (["sweep"], 0), (["results"], 1)])
def test_a_command_that_only_prints_fails_with_its_output(words, code, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(commands, "_run", lambda arguments: 0)
    stream = LastingOutput(io.TextIOWrapper(io.BytesIO(), "utf-8"), print)
    stream.error = full
    monkeypatch.setattr(sys, "stdout", stream)
    assert commands.main(words) == code


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection",
    [
        "| head -1",
        pytest.param("> /dev/full", marks=pytest.mark.long),
        pytest.param(">&-", marks=pytest.mark.long),
        ">&- 2>&-",
    ],
)
def test_a_shell_takes_the_output_away(redirection, tmp_path):
    root = Path(__file__).parents[2]
    command = (
        f"{sys.executable} -m ss_lightning fit --config {root / 'configs' / 'yinyang.yaml'} --data.num_train=60 "
        "--data.num_val=20 --data.num_steps=20 --model.hidden=[8] --trainer.max_epochs=1 --pictures.every_n_epochs=0"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        f"set -o pipefail; {command} {redirection}", shell=True, executable="/bin/bash", cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs/yinyang/version_0/checkpoints/best.ckpt").is_file()
