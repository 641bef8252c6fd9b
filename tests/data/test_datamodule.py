import ast
import inspect
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule

import ss_lightning.data
from ss_lightning.data import (
    CIFAR10Data,
    EventAugmentation,
    EventData,
    EventDataModule,
    FashionMNISTData,
    MNISTData,
    NMNISTData,
    SHDData,
    SSCData,
    YinYangData,
)
from ss_lightning.errors import UsageError

GRID = {"num_steps": 25, "step_ms": 2.0}
FROM_CONFIG = [YinYangData, MNISTData, FashionMNISTData, CIFAR10Data, NMNISTData, SHDData, SSCData]


@pytest.fixture
def data(recordings):
    def make(**kwargs):
        options = {**GRID, "batch_size": 5, "val_fraction": 0.25, **kwargs}
        return EventData.from_arrays(train=recordings(30), test=recordings(11, seed=1), num_units=7, **options)

    return make


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_steps": 0}, "num_steps is 0; expected a whole number, 1 or more"),
        ({"num_steps": 2.5}, "num_steps is 2.5"),
        ({"num_steps": True}, "num_steps is True"),
        ({"step_ms": 0}, "step_ms is 0; expected a number greater than 0"),
        ({"step_ms": -1.0}, "step_ms is -1.0"),
        ({"step_ms": float("nan")}, "step_ms is nan"),
        ({"step_ms": float("inf")}, "step_ms is inf"),
        ({"step_ms": "2"}, "step_ms is '2'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1; expected a whole number, 0 or more"),
        ({"binning": "sum"}, "binning is 'sum'; expected 'binary' or 'count'"),
        ({"input": "sparse"}, "input is 'sparse'; expected 'events' or 'dense'"),
    ],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(UsageError, match=words):
        EventDataModule(**{**GRID, **arguments})


def test_training_batches_are_shuffled_and_complete(data):
    module = data()
    loader = module.train_dataloader()
    expected = module.dataset(module.splits.train).__getitems__(range(22))

    def epoch():
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 2]
        return torch.cat([events.events_per_sample() for events, _ in batches]).tolist()

    first, second = epoch(), epoch()
    assert first != second
    assert sorted(first) == sorted(second) == sorted(expected[0].events_per_sample().tolist())


def test_evaluation_batches_keep_their_order(data):
    module = data()
    for loader, part in (
        (module.val_dataloader(), module.splits.val),
        (module.test_dataloader(), module.splits.test),
        (module.predict_dataloader(), module.splits.test),
    ):
        events, labels = module.dataset(part).__getitems__(range(len(part)))
        batches = list(loader)
        assert torch.cat([labels for _, labels in batches]).tolist() == labels.tolist()
        assert torch.equal(torch.cat([e.to_dense() for e, _ in batches], 1), events.to_dense())


@pytest.mark.parametrize("input", ["events", "dense"])
def test_workers_change_nothing(data, input):
    def batches(num_workers):
        torch.manual_seed(0)
        loader = data(num_workers=num_workers, input=input).train_dataloader()
        return [batch for _ in range(2) for batch in loader]

    alone, helped = batches(0), batches(2)
    assert len(alone) == len(helped) == 10
    for (one, one_labels), (two, two_labels) in zip(alone, helped, strict=True):
        assert torch.equal(one_labels, two_labels)
        if input == "dense":
            assert torch.equal(one, two)
        else:
            assert torch.equal(one.units, two.units)
            assert torch.equal(one.offsets, two.offsets)
            assert one.shape == two.shape


def test_late_events_are_announced_once(data):
    module = data(num_steps=10)
    with pytest.warns(UserWarning, match=r"\d\d\.\d% of the training events.*num_steps=10.*Raise"):
        module.prepare_data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.setup("fit")
        module.train_dataloader()


SHIFTED = [("train", "training"), ("val", "validation"), ("test", "test")]


@pytest.mark.parametrize(("part", "name"), SHIFTED)
@pytest.mark.parametrize("how", ["all", "one recording", "in the first step"])
def test_every_part_of_the_data_is_held_against_the_grid(part, name, how, recordings):
    made = {key: recordings(num_units=4, seed=seed) for seed, (key, _) in enumerate(SHIFTED)}
    times, *rest = made[part]
    if how == "one recording":
        times = [times[0] + 80.0, *times[1:]]
    else:
        times = [t + 80.0 if how == "all" else t / 1000 for t in times]
    made[part] = (times, *rest)
    module = EventData.from_arrays(**made, num_units=4, num_steps=60, step_ms=1.0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            module.setup("fit")
            for loader in (module.val_dataloader, module.test_dataloader, module.predict_dataloader):
                loader()
    (said,) = {str(warning.message) for warning in seen}
    assert len(seen) == 1
    number = {"all": 12, "one recording": 1}.get(how)
    if number is None:
        assert said.startswith(f"All {name} events lie in the first step of the time grid")
    else:
        assert f"of the {name} events, all events of {number} of 12 samples among them, lie after the end" in said
    assert ("100.0%" in said) == (how == "all")


def test_a_grid_that_holds_all_events_is_silent(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data(num_steps=25).setup("fit")


def test_the_data_are_prepared_once(data):
    module = data()
    splits, module.load_splits = module.load_splits(), None
    module._splits = splits
    module.prepare_data()
    module.setup("fit")
    assert module.num_classes == 3
    assert module.splits is splits


def test_a_data_module_shows_what_it_is(data, monkeypatch):
    module = data()
    monkeypatch.setattr(EventData, "load_splits", lambda self: pytest.fail("printing reads nothing"))
    assert repr(module) == "EventData(classes=3, units=7, steps=25, step_ms=2, train=?, val=?, test=?)"
    monkeypatch.undo()
    module.prepare_data()
    assert str(module) == "EventData(classes=3, units=7, steps=25, step_ms=2, train=22, val=8, test=11)"
    without = EventData(module.train, val_fraction=0, **GRID)
    without.prepare_data()
    assert str(without) == "EventData(classes=3, units=7, steps=25, step_ms=2, train=30, val=0, test=0)"


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (lambda: SHDData("nowhere", units_per_input=99), "SHDData(classes=?, units=8, steps=500, step_ms=2, "),
        (lambda: SSCData("nowhere"), "SSCData(classes=?, units=700, steps=500, step_ms=2, "),
        (lambda: MNISTData("nowhere", step_ms=0.5), "MNISTData(classes=10, units=784, steps=100, step_ms=0.5, "),
        (lambda: CIFAR10Data("nowhere"), "CIFAR10Data(classes=10, units=3072, steps=4, step_ms=1, "),
        (
            lambda: NMNISTData("nowhere", polarity="separate"),
            "NMNISTData(classes=10, units=2312, steps=300, step_ms=1, ",
        ),
        (lambda: YinYangData(), "YinYangData(classes=3, units=4, steps=100, step_ms=1, "),
    ],
)
def test_what_is_known_before_the_data_are_read(module, shown):
    assert str(module()) == f"{shown}train=?, val=?, test=?)"


# Several devices --------------------------------------------------------------------------------------------


def on_device(module, rank, world_size):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, strategy=strategy)
    return module


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 5), (3, 1), (2, 3), (4, 2), (11, 2)])
def test_evaluation_on_several_devices_repeats_nothing(data, world_size, batch_size):
    loaders = [on_device(data(batch_size=batch_size), rank, world_size).test_dataloader() for rank in range(world_size)]
    whole = data().dataset(data().splits.test).__getitems__(range(11))[0].to_dense()
    assert len({len(list(loader)) for loader in loaders}) == 1  # no process waits for another
    seen = [index for loader in loaders for index in loader.sampler]
    assert sorted(seen) == list(range(11))
    parts = [torch.cat([events.to_dense() for events, _ in loader], 1) for loader in loaders]
    assert torch.equal(torch.cat(parts, 1), whole[:, seen])


def test_fewer_samples_than_devices_are_refused(data):
    with pytest.raises(UsageError, match="11 samples cannot be shared among 12 devices"):
        on_device(data(), 0, 12).test_dataloader()


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [("cuda", None, True), ("cpu", None, False), ("mps", None, False), ("cuda", False, False), ("cpu", True, True)],
)
def test_batches_are_pinned_where_they_go_to_a_gpu(device, given, expected):
    data = YinYangData(num_train=20, num_val=5, num_test=5, num_steps=8, step_ms=1, pin_memory=given)
    strategy = SimpleNamespace(root_device=torch.device(device), broadcast=lambda value: value)
    epoch = SimpleNamespace(current=SimpleNamespace(processed=0))
    data.trainer = SimpleNamespace(
        strategy=strategy, world_size=1, global_rank=0, fit_loop=SimpleNamespace(epoch_progress=epoch)
    )
    assert data.train_dataloader().pin_memory is expected
    assert data.test_dataloader().pin_memory is expected


# Command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FROM_CONFIG)
def test_every_argument_can_come_from_a_config(kind):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    arguments = {"num_steps": 10, "step_ms": 4, "batch_size": 32, "binning": "count", "input": "dense"}
    arguments |= {"num_workers": 1, "pin_memory": True}
    config = parser.parse_object({"data": {"class_path": f"ss_lightning.data.{kind.__name__}", "init_args": arguments}})
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the name since 4.49
    module = instantiate(config).data
    assert type(module) is kind
    assert {name: getattr(module, name) for name in arguments} == arguments


@pytest.mark.parametrize("kind", [*FROM_CONFIG, EventData, EventDataModule])
def test_every_argument_shows_and_is_explained(kind):
    """In the signature and the docstring, and on the command line."""
    arguments = inspect.signature(kind).parameters
    assert set(arguments) >= set(inspect.signature(EventDataModule).parameters)
    assert not [name for name, argument in arguments.items() if argument.kind is argument.VAR_KEYWORD]
    assert all(argument.annotation is not argument.empty for argument in arguments.values())
    explained = inspect.getdoc(kind)
    assert [name for name in arguments if explained.count(f"\n    {name}: ") != 1] == []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data")
    helps = {action.dest: action.help for action in parser._actions}
    assert [name for name in arguments if not helps[f"data.{name}"]] == []


def test_the_arguments_are_those_that_are_documented():
    """The table of one data set in full, so that a lost argument shows."""
    arguments = inspect.signature(SHDData).parameters
    assert {name: argument.default for name, argument in arguments.items()} == {
        "root": "data",
        "val_speakers": None,
        "test_speakers": None,
        "exclude_test_file": False,
        "num_steps": 500,
        "step_ms": 2.0,
        "num_units": 700,
        "units_per_input": 1,
        "augment": EventAugmentation(),
        "download": True,
        "cache_dir": None,
        "batch_size": 128,
        "binning": "binary",
        "input": "events",
        "num_workers": 0,
        "pin_memory": None,
    }
    assert arguments["batch_size"].annotation is int


@pytest.mark.parametrize("name", ["from_arrays", "from_tonic"])
def test_the_ways_to_build_event_data_show_all_arguments(name):
    method = getattr(EventData, name)
    arguments = inspect.signature(method).parameters
    assert list(arguments)[:3] == ["train", "test", "val"]
    assert set(arguments) >= set(inspect.signature(EventData).parameters)
    assert not [name for name, argument in arguments.items() if argument.kind is argument.VAR_KEYWORD]
    assert [name for name in arguments if f"\n    {name}: " not in inspect.getdoc(method)] == []


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (SHDData, {"unit_bin": 5}, "SHDData: .*unit_bin is now called units_per_input"),
        (SHDData, {"spare_test_file": True}, "spare_test_file is now called exclude_test_file"),
        (MNISTData, {"batchsize": 5}, "MNISTData: .*batchsize"),
    ],
)
def test_arguments_that_do_not_exist_are_named(kind, arguments, words):
    with pytest.raises(TypeError, match=words):
        kind(**arguments)


def test_unknown_options_are_named_before_the_data_are_read():
    with pytest.raises(TypeError, match=r"from_arrays: .*'batch'"):
        EventData.from_arrays(None, num_units=3, batch=5, **GRID)


def test_data_imports_no_model_and_nothing_slow():
    for path in Path(ss_lightning.data.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        everywhere, on_import = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module}
            else:
                continue
            everywhere |= names
            if node in tree.body:
                on_import |= names
        inside = {name for name in everywhere if name.startswith("ss_lightning")}
        rooms = ("arrays", "binning", "data", "errors", "events", "files", "jit", "signatures")
        allowed = tuple(f"ss_lightning.{room}" for room in rooms)
        assert all(name.startswith(allowed) for name in inside), path
        assert not {name.split(".")[0] for name in on_import} & {"tonic", "torchvision", "numba"}, path


def test_public_names_exist():
    assert all(hasattr(ss_lightning.data, name) for name in ss_lightning.data.__all__)
    assert np.all(np.sort(ss_lightning.data.__all__) == ss_lightning.data.__all__)
    assert {kind.__name__ for kind in [*FROM_CONFIG, EventData, EventDataModule]} <= set(ss_lightning.__all__)
