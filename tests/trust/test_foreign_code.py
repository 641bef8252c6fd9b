"""Whatever way the name of a class or function comes in, nothing foreign is imported or called.

The inputs are generated: every name, at every place of a config where a class or a function can stand, by every way in.
"""

import json
import os
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from ss_lightning.cli.commands import main
from ss_lightning.cli.imports import MODULES_VARIABLE

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("SS_LIGHTNING_LONG_TESTS"))
BASE = yaml.safe_load((ROOT / "configs" / "yinyang.yaml").read_text(encoding="utf-8"))
BASE["data"]["init_args"] |= {"num_train": 20, "num_val": 10, "num_test": 10, "num_steps": 10}
BASE["model"]["init_args"]["hidden"] = [4]
BASE["trainer"]["max_epochs"] = 1
CANARY = """\
from pathlib import Path
Path("imported").touch()
from lightning.pytorch.callbacks import Callback
class Cb(Callback):
    def __init__(self, *_, **__): Path("called").touch()
    def __call__(self, *_, **__): Path("called").touch()
    @classmethod
    def make(cls, *_, **__) -> Callback: Path("called").touch()
def fn(*_, **__) -> Callback: Path("called").touch()
instance = Cb.__new__(Cb)
"""
EVENTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")

# What should not be imported or called: not of the allowed packages, or of them and able to run code.
NAMES = [
    *("foreign.Cb", "foreign.fn", "foreign.instance", "foreign.Cb.make", "foreign.fn.__call__"),
    *("foreign_folder.inner.Cb", "lightning.pytorch.cli.LightningCLI", "ss_lightning.files.save_text"),
    *("os.system", "posix.system", "subprocess.run", "subprocess.Popen", "builtins.eval", "builtins.exec"),
    *("builtins.__import__", "importlib.import_module", "runpy.run_path", "pickle.load", "functools.partial"),
    *("jsonargparse.set_parsing_settings", "jsonargparse.CLI", "tonic.datasets.SHD", "pandas.eval"),
    *("torch.os.system", "torch.os.system.__call__", "torch.hub.load", "torch.load", "torch.compile"),
    *("torch.utils.cpp_extension.load", "torch.utils.benchmark.Timer", "torch.utils.collect_env.run"),
    *("torch.ops.load_library", "torch.multiprocessing.spawn", "torch.package.PackageImporter", "torch.jit.load"),
    *("torch.nn.modules.module.functools.partial", "torch.nn.functional.importlib.import_module"),
    *("torch.optim.optimizer.functools.wraps", "torch.fx.GraphModule", "torch.nn.Module.__init_subclass__"),
    *("lightning.pytorch.cli.os.system", "lightning.pytorch.cli.instantiate_class"),
    *("lightning.pytorch.cli.instantiate_module.__call__", "lightning.pytorch.LightningModule.load_from_checkpoint"),
    *("lightning.fabric.utilities.cloud_io._load", "lightning.pytorch.trainer.connectors.callback_connector.os.system"),
    *("ss_lightning.MLPClassifier.load_from_checkpoint", "ss_lightning.cli.commands.main"),
    *("ss_lightning.cli.commands.import_module", "ss_lightning.cli.lightning_cli.SpikingCLI"),
    *("ss_lightning.parsing.sys",),
    *("snntorch.functional.np.load", "torchmetrics.functional.torch.load", "ss_lightning.export.loading.import_module"),
]  # fmt: skip


def spec(name):
    return {"class_path": name}


def argument(owner, key):
    return lambda name: {"class_path": owner, "init_args": {key: name}}


LINES = "ss_lightning.runs.progress.EpochLines"
CALLBACKS, SCHEDULERS = "lightning.pytorch.callbacks", "torch.optim.lr_scheduler"
# Key, and what stands there for a name.
PLACES = [
    ("trainer.callbacks", lambda name: [spec(name)]),
    ("trainer.callbacks", spec),
    ("trainer.callbacks", lambda name: name),
    ("trainer.callbacks", lambda name: [spec(LINES), {**spec(name), "dict_kwargs": {"a": 1}}]),
    ("trainer.callbacks", lambda name: [argument(LINES, "write")(name)]),
    ("trainer.callbacks", lambda name: [argument(LINES, "write")(spec(name))]),
    ("trainer.callbacks", lambda name: [argument(LINES, "write")({**spec(name), "init_args": {"a": "b"}})]),
    ("trainer.callbacks", lambda name: [argument(f"{CALLBACKS}.LambdaCallback", "on_fit_start")(name)]),
    ("trainer.callbacks", lambda name: [argument(f"{CALLBACKS}.LambdaCallback", "setup")(spec(name))]),
    ("trainer.callbacks", lambda name: [argument(f"{CALLBACKS}.ModelPruning", "pruning_fn")(name)]),
    ("trainer.callbacks", lambda name: [argument(f"{CALLBACKS}.WeightAveraging", "avg_fn")(name)]),
    ("trainer.logger", spec),
    ("trainer.logger", lambda name: [spec(name), spec("lightning.pytorch.loggers.CSVLogger")]),
    ("trainer.logger", lambda name: argument("lightning.pytorch.loggers.WandbLogger", "experiment")(spec(name))),
    ("trainer.strategy", spec),
    ("trainer.strategy", lambda name: argument("lightning.pytorch.strategies.DDPStrategy", "ddp_comm_hook")(name)),
    ("trainer.accelerator", spec),
    ("trainer.profiler", spec),
    ("trainer.plugins", lambda name: [spec(name)]),
    ("model", spec),
    ("model", lambda name: {**spec("ss_lightning.MLPClassifier"), "dict_kwargs": {"hook": spec(name)}}),
    ("data", spec),
    ("optimizer", spec),
    ("optimizer", lambda name: argument("torch.optim.Adam", "lr")(spec(name))),
    ("lr_scheduler", spec),
    ("lr_scheduler", lambda name: argument(f"{SCHEDULERS}.LambdaLR", "lr_lambda")(name)),
    ("lr_scheduler", lambda name: argument(f"{SCHEDULERS}.MultiplicativeLR", "lr_lambda")(spec(name))),
    ("lr_scheduler", lambda name: argument(f"{SCHEDULERS}.CyclicLR", "scale_fn")(name)),
]  # fmt: skip


def changed(key, value):
    """The base config with another value of a key."""
    config = json.loads(json.dumps(BASE))
    *above, last = key.split(".")
    part = config
    for name in above:
        part = part[name]
    part[last] = value
    return config


def write(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def fit(key, value, *more):
    return ["fit", "--config", write("theirs.yaml", changed(key, value)), *more]


def in_a_file(key, value, monkeypatch):
    return fit(key, value)


def as_json_in_a_string(key, value, monkeypatch):
    return fit(key, json.dumps(value))


def as_yaml_in_a_string(key, value, monkeypatch):
    return fit(key, yaml.safe_dump(value))


def a_string_in_a_string(key, value, monkeypatch):
    return fit(key, json.dumps(json.dumps(value)))


def in_a_second_file(key, value, monkeypatch):
    return fit(key, write("part.yaml", value))


def in_a_second_file_below(key, value, monkeypatch):
    return fit("trainer", write("trainer.yaml", changed(key, value)["trainer"])) if "." in key else fit(key, value)


def by_a_key_config(key, value, monkeypatch):
    return ["fit", "--config", write("theirs.yaml", {"config": write("part.yaml", changed(key, value))})]


def by_alias(key, value, monkeypatch):
    text = yaml.safe_dump(changed(key, "ALIAS"), sort_keys=False)
    assert text.startswith("seed_everything: 0")
    # The value stands first where a number is expected, and is taken back by a later file.
    text = text.replace("seed_everything: 0", f"seed_everything: &it {json.dumps(value)}", 1).replace("ALIAS", "*it")
    return fit(key, value) if not isinstance(value, dict | list) else ["fit", "--config", write("theirs.yaml", text)]


def config_as_a_string(key, value, monkeypatch):
    return ["fit", "--config", json.dumps(changed(key, value))]


def beside_a_checkpoint(key, value, monkeypatch):
    write("theirs/config.yaml", changed(key, value))
    return ["test", "--ckpt_path", write("theirs/checkpoints/best.ckpt", "not read")]


def in_the_command_of_a_sweep(key, value, monkeypatch):
    return sweep([f"--{key}={json.dumps(value)}"], {"optimizer.init_args.lr": {"values": [0.01]}})


def in_two_words_of_a_sweep(key, value, monkeypatch):
    return sweep([f"--{key}", json.dumps(value)], {"optimizer.init_args.lr": {"values": [0.01]}})


def in_the_values_of_a_sweep(key, value, monkeypatch):
    return sweep([], {key: {"values": [value]}})


def in_the_fixed_value_of_a_sweep(key, value, monkeypatch):
    return sweep([], {key: {"value": value}})


def sweep(words, parameters):
    command = ["${env}", "python", "-m", "ss_lightning", "fit", "--config", write("base.yaml", BASE), *words, "${args}"]
    metric = {"name": "val/accuracy", "goal": "maximize"}
    write("sweep.yaml", {"method": "grid", "metric": metric, "parameters": parameters, "command": command})
    return ["sweep", "sweep.yaml", "--trials", "1"]


def from_the_environment(key, value, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv(f"PL_FIT__{key.upper().replace('.', '__')}", json.dumps(value))
    # A config goes over the environment: its own value would take the place of this one.
    return ["fit", "--config", write("base.yaml", {name: part for name, part in BASE.items() if name != key})]


def from_the_environment_as_a_file(key, value, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_FIT__CONFIG", write("theirs.yaml", changed(key, value)))
    return ["fit"]


def in_a_file_after_a_name_that_was_typed(key, value, monkeypatch):
    return fit(key, value, "--trainer.callbacks+=foreign_typed.Mine")


WAYS = [
    in_a_file, as_json_in_a_string, as_yaml_in_a_string, a_string_in_a_string, in_a_second_file, in_a_second_file_below,
    by_a_key_config, by_alias, config_as_a_string, beside_a_checkpoint, in_the_command_of_a_sweep,
    in_two_words_of_a_sweep, in_the_values_of_a_sweep, in_the_fixed_value_of_a_sweep, from_the_environment,
    from_the_environment_as_a_file, in_a_file_after_a_name_that_was_typed,
]  # fmt: skip
started = []
# What a run writes down of its code and its machine, and what the parser asks Python once, to find type stubs.
HARMLESS = ("git", "uname", "lscpu")
STUBS = [sys.executable, "-c", "import sys, json; print(json.dumps(sys.path))"]


def listen(event, about):
    if event in EVENTS and about[0] not in HARMLESS and not (event == "subprocess.Popen" and about[1] == STUBS):
        started.append(f"{event} {about[:2]}")


sys.addaudithook(listen)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with modules that leave a trace when they are imported or called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MODULES_VARIABLE, raising=False)
    write("foreign.py", CANARY)
    write("foreign_folder/inner.py", CANARY)
    write("foreign_typed.py", "from lightning.pytorch.callbacks import Callback\nclass Mine(Callback): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("foreign")]:
        del sys.modules[name]


class Reached(Exception):
    """A training would have begun."""


def run(way, place, name, monkeypatch):
    """What became of an input: nothing, or what went wrong."""
    key, make = place
    for trace in ("imported", "called"):
        Path(trace).unlink(missing_ok=True)
    started.clear()
    with monkeypatch.context() as patch:
        arguments = way(key, make(name), patch)
        try:
            code = main(arguments)
        except Exception as error:  # a traceback, which is a fault of another kind, but one
            return f"{type(error).__name__}: {error}"[:300]
    forget()
    traces = [trace for trace in ("imported", "called") if Path(trace).exists()] + started
    return f"{traces} exit code {code}" if traces or code not in (1, 2) else ""


CASES = list(product(WAYS, PLACES, NAMES))
# Every way, place and name comes in: the steps are no divisors of their numbers.
CASES = CASES[:: 11 if LONG else 281]


@pytest.mark.slow
def test_nothing_foreign_runs(monkeypatch, capsys):
    faults = []
    for way, place, name in CASES:
        if fault := run(way, place, name, monkeypatch):
            faults.append(f"{way.__name__} {place[0]} {place[1]('NAME')} {name}: {fault}")
    inputs = {(way.__name__, place[0], json.dumps(place[1](name))) for way, place, name in CASES}
    with capsys.disabled():
        print(f"\n{len(inputs):,} distinct inputs")
    assert not faults, f"{len(faults)} of {len(CASES)}:\n" + "\n".join(faults[:40])


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way not in (a_string_in_a_string, by_alias)])
def test_what_is_trusted_comes_in_by_every_way(way, monkeypatch):
    """The control: with the module on the list, each of the ways leads to the import and the call."""
    monkeypatch.setenv(MODULES_VARIABLE, "foreign, foreign_typed")
    fault = run(way, PLACES[0], "foreign.Cb", monkeypatch)
    assert fault == "['imported', 'called'] exit code 0" or (way in (beside_a_checkpoint,) and "'called'" in fault)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--trainer.callbacks=[{class_path: foreign.Cb}]"], ["imported", "called"]),
        (["--trainer.callbacks=foreign.Cb"], ["imported", "called"]),
        (["--trainer.callbacks", "foreign.Cb"], ["imported", "called"]),
        (["--trainer.callbacks", "part.yaml"], []),
    ],
)
@pytest.mark.slow
def test_what_is_typed_is_taken_as_it_is(arguments, expected):
    """The names on a command line are trusted; what stands in the files that it names is not."""
    write("part.yaml", [spec("foreign.Cb")])
    main(["fit", "--config", write("base.yaml", BASE), "--pictures.every_n_epochs=0", *arguments])
    assert [trace for trace in ("imported", "called") if Path(trace).exists()] == expected


def test_one_name_that_was_typed_opens_no_other(capsys):
    config = changed("trainer.callbacks", [argument(LINES, "write")("foreign.fn")])
    assert main(["fit", "--config", write("theirs.yaml", config), "--trainer.callbacks+=foreign.Cb"]) == 2
    assert not Path("called").exists()
    assert "foreign.fn is not of a module that a config may name" in capsys.readouterr().err


def test_a_name_in_a_string_is_refused_before_the_import(capsys):
    assert main(as_json_in_a_string("trainer.callbacks", [spec("foreign.Cb")], None)) == 2
    assert f"If you trust it: {MODULES_VARIABLE}=foreign" in capsys.readouterr().err
    assert not Path("imported").exists()
    assert not Path("runs").exists()


def test_a_function_is_judged_by_its_own_module(capsys):
    callbacks = [argument(LINES, "write")("ss_lightning.files.save_text")]
    assert main(in_a_file("trainer.callbacks", callbacks, None)) == 2
    error = capsys.readouterr().err
    assert "trainer.callbacks.init_args.write: ss_lightning.files.save_text is nothing that a config may name" in error


@pytest.mark.parametrize("key", ["optimizer", "lr_scheduler"])
def test_explaining_a_mistake_imports_nothing(key, capsys):
    config = changed(key, {"class_path": "foreign.Cb", "init_args": {"nonsense": 1}})
    config["trainer"]["nonsense"] = "foreign.fn"
    assert main(["fit", "--config", json.dumps(config)]) == 2
    assert not Path("imported").exists()


def test_explaining_an_argument_that_does_not_fit_imports_nothing(monkeypatch, capsys):
    hooked = {**spec("ss_lightning.MLPClassifier"), "dict_kwargs": {"hook": spec("foreign_folder.inner.Cb")}}
    assert main(from_the_environment("model", hooked, monkeypatch)) == 2
    assert not Path("imported").exists()
    assert "unexpected keyword argument 'hook'" in capsys.readouterr().err


def test_the_parsers_of_others_are_as_before():
    from jsonargparse import ArgumentParser, get_loader

    before = get_loader("yaml")
    main(in_a_file("trainer.callbacks", [spec("foreign.Cb")], None))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=object)
    parser.add_subclass_arguments(__import__("lightning").pytorch.Callback, "own")
    assert parser.parse_args(["--own=foreign.Cb"]).own.class_path == "foreign.Cb"
    assert get_loader("yaml") is before


@pytest.mark.parametrize("words", ["for-eign", "1", "a b.c-d", "jsonargparse", "*"])
def test_the_variable_holds_names_of_modules(words, monkeypatch, capsys):
    monkeypatch.setenv(MODULES_VARIABLE, words)
    assert main(["fit", "--config", write("base.yaml", BASE)]) == 2
    assert f"{MODULES_VARIABLE} holds" in capsys.readouterr().err


def test_no_config_turns_the_protection_of_checkpoints_off(capsys):
    config = BASE | {"weights_only": False}
    config["trainer"] = {**BASE["trainer"], "plugins": [spec("lightning.pytorch.plugins.TorchCheckpointIO")]}
    assert main(["fit", "--config", write("theirs.yaml", config)]) == 2
    assert "weights_only is false" in capsys.readouterr().err


@pytest.fixture
def gestures(folder):
    """DVS Gesture as tonic unpacks it: eleven gestures of ten users in each part, two events each."""
    for part in ("ibmGestureTrain", "ibmGestureTest"):
        for user in range(10):
            place = folder / "DVSGesture" / part / f"user{user:02}_led"
            place.mkdir(parents=True)
            for gesture in range(11):
                np.save(place / f"{gesture}.npy", np.array([[gesture, 0, 0, 1], [user, 1, 1, 2]], float))
        (folder / "DVSGesture" / f"{part}.tar.gz").touch()


GESTURES = "tonic.datasets.DVSGesture"
# Data sets and arguments that a config may give to TonicData, of which none may run.
DATASETS = [
    *(spec(name) for name in NAMES[::6]),
    *(spec(name) for name in ("tonic.os.system", "tonic.datasets.np.load", "tonic.datasets.os.system")),
    *(spec(name) for name in ("tonic.datasets.os", "tonic.datasets.dvsgesture.os.system", "tonic.io.read_aedat4")),
    *(spec(name) for name in ("tonic.datasets..os.system", "tonic.datasets.__loader__.load_module", "foreign")),
    *(spec(name) for name in (f"{GESTURES}.__init__", f"{GESTURES}.download", "tonic.dataset.Dataset")),
    *(argument(GESTURES, "transform")(value) for value in ("foreign.fn", spec("foreign.Cb"), "os.system")),
    *(argument(GESTURES, key)("foreign.fn") for key in ("target_transform", "transforms", "__class__", "url")),
    {**spec(GESTURES), "init_args": {"transform": {**spec("foreign.Cb"), "init_args": {"a": 1}}}},
    {**spec(GESTURES), "dict_kwargs": {"transform": spec("foreign.Cb")}},
    *("foreign.Cb", spec(spec("foreign.Cb")), [spec("foreign.Cb")]),
]  # fmt: skip


def of_tonic(dataset):
    grid = {"num_steps": 2, "step_ms": 1, "pixels_per_input": 64}
    return spec("ss_lightning.data.TonicData") | {
        "init_args": {"dataset": dataset, "root": ".", "cache_dir": "cache", "prepare_processes": 1, **grid}
    }


@pytest.mark.slow
@pytest.mark.usefixtures("gestures")
def test_a_data_set_of_tonic_runs_nothing_else(monkeypatch):
    started_downloads = []
    monkeypatch.setattr("tonic.dataset.Dataset.download", lambda dataset: started_downloads.append(dataset))
    faults = [(dataset, run(in_a_file, ("data", of_tonic), dataset, monkeypatch)) for dataset in DATASETS]
    assert [fault for fault in faults if fault[1]] == []
    # The control: the same config trains with the data set alone.
    assert run(in_a_file, ("data", of_tonic), spec(GESTURES), monkeypatch) == "[] exit code 0"
    assert not started_downloads


ALIASES = "a: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize("way", ["file", "value", "key", "string", "text"])
def test_a_config_that_expands_without_end_is_not_read(way, capsys):
    bomb = write("bomb.yaml", ALIASES)
    arguments = {
        "file": lambda: ["--config", bomb],
        "value": lambda: ["--config", write("theirs.yaml", changed("trainer.callbacks", bomb))],
        "key": lambda: ["--config", write("theirs.yaml", {"config": bomb})],
        "string": lambda: ["--config", write("theirs.yaml", changed("trainer.callbacks", ALIASES))],
        "text": lambda: ["--config", ALIASES],
    }[way]()
    assert main(["fit", *arguments]) == 2
    assert "its aliases stand for 1,234,567,909 values" in capsys.readouterr().err
