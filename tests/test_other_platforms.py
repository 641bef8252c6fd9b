"""What Windows and macOS lack or do in another way, as far as it can be shown on Linux."""

import ntpath
import shlex
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from ss_lightning import files
from ss_lightning.runs.record import command_line

ROOT = Path(__file__).parents[1]
# Libraries come first, for theirs is another version on Windows. Then what Windows lacks goes, and all of this package
# is imported.
WINDOWS = """
import ast, importlib, os, pathlib, signal, sys
sources = sorted(pathlib.Path("ss_lightning").rglob("*.py"))
for path in sources:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        for name in names if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
            if name.partition(".")[0] not in ("ss_lightning", "__future__", ""):
                try:
                    importlib.import_module(name)
                except ImportError:
                    pass
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for owner, names in (
    (os, ("fork", "forkpty", "getuid", "geteuid", "killpg", "mkfifo", "setsid", "uname", "wait3", "sched_getaffinity")),
    (signal, ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "alarm", "setitimer")),
):
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)
missing = []
for path in sources:
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    try:
        importlib.import_module(name)
    except ImportError as error:
        if "triton" not in name:
            missing.append(f"{name}: {error}")
print(missing)
"""


@pytest.mark.slow
def test_every_module_can_be_imported_without_what_windows_lacks():
    result = subprocess.run([sys.executable, "-c", WINDOWS], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip().splitlines()[-1:] == ["[]"], result.stdout + result.stderr


def test_paths_are_shown_with_slashes(monkeypatch):
    monkeypatch.setattr(files.os, "path", ntpath)
    monkeypatch.setattr(files.os, "sep", "\\")
    monkeypatch.setattr(ntpath, "relpath", lambda path: ntpath.normpath(path).removeprefix("C:\\here\\"))
    assert files.display_path("C:\\here\\runs\\yinyang\\version_0") == "runs/yinyang/version_0"


def test_a_path_on_another_drive_is_shown_whole(monkeypatch):
    def relpath(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(files.os.path, "relpath", relpath)
    assert files.display_path("/data/run") == "/data/run"


def test_a_recorded_command_keeps_backslashes():
    words = ["fit", "--config", "configs\\shd.yaml", "--data.root", "D:\\my data"]
    assert shlex.split(command_line(words))[3:] == words
    assert PureWindowsPath("runs\\shd").as_posix() == "runs/shd"
