"""Arguments that are passed on are shown, explained, and answered for."""

import inspect
import pickle
import pydoc
from typing import Literal, get_args

import pytest

from ss_lightning import MLP, ConvClassifier, ConvNet, MLPClassifier, SpikingClassifier
from ss_lightning.module import NetworkClassifier
from ss_lightning.networks import SpikingNetwork
from ss_lightning.signatures import passes_on_to

COMMON = {"input_shape": [4], "num_classes": 3, "step_ms": 1.0}


class Engine:
    """What drives.

    Args:
        power: in kilowatts.
        fuel: what it burns, which may need
            two lines.
    """

    def __init__(self, *, power: float = 1.0, fuel: Literal["oil", "gas"] = "oil") -> None:
        self.power, self.fuel = power, fuel


@passes_on_to(Engine)
class Car:
    """What is driven.

    Args:
        seats: how many sit.

    Raises:
        ValueError: none sits.
    """

    def __init__(self, *, seats: int = 4, **engine) -> None:
        self.seats, self.engine = seats, Engine(**engine)


class Taxi(Car):
    pass


class Bus(Car):
    def __init__(self, *, line: str, **car) -> None:
        super().__init__(**car)
        self.line = line


def test_signature_shows_what_is_passed_on():
    parameters = inspect.signature(Car).parameters
    assert list(parameters) == ["seats", "power", "fuel"]
    assert [p.default for p in parameters.values()] == [4, 1.0, "oil"]
    assert get_args(parameters["fuel"].annotation) == ("oil", "gas")


def test_docstring_explains_each_argument_once():
    expected = (
        "What is driven.\n\nArgs:\n    seats: how many sit.\n    power: in kilowatts.\n"
        "    fuel: what it burns, which may need\n        two lines.\n\nRaises:\n    ValueError: none sits.\n"
    )
    assert Car.__doc__ == expected
    assert "power: in kilowatts." in pydoc.plain(pydoc.render_doc(Car))


def test_arguments_arrive():
    assert vars(Car(seats=2, power=3.0).engine) == {"power": 3.0, "fuel": "oil"}
    assert Taxi(power=2.0).engine.power == 2.0
    bus = Bus(line="7", seats=40, fuel="gas")
    assert (bus.line, bus.seats, bus.engine.fuel) == ("7", 40, "gas")
    assert vars(pickle.loads(pickle.dumps(bus)).engine) == vars(bus.engine)


@pytest.mark.parametrize("kind", [Car, Taxi])
def test_a_mistake_names_the_class_that_was_called(kind):
    with pytest.raises(TypeError, match=rf"^{kind.__name__}: got an unexpected keyword argument 'wings'\.$"):
        kind(wings=2)


def test_a_renamed_argument_is_answered_with_its_new_name():
    with pytest.raises(TypeError, match=r"'unit_bin'\. unit_bin is now called units_per_input\."):
        Car(unit_bin=5)


@pytest.mark.parametrize("kind", [MLP, ConvNet, MLPClassifier, ConvClassifier])
def test_every_argument_of_a_network_has_type_default_and_explanation(kind):
    parameters = inspect.signature(kind).parameters
    assert set(inspect.signature(SpikingNetwork).parameters) <= set(parameters)
    needed = [p.name for p in parameters.values() if p.default is p.empty]
    assert needed == ["input_shape", "num_classes", "step_ms"]
    for parameter in parameters.values():
        assert parameter.kind is not parameter.VAR_KEYWORD
        assert parameter.annotation is not parameter.empty
        assert not isinstance(parameter.annotation, str)
        assert kind.__doc__.count(f"\n    {parameter.name}: ") == 1, parameter.name


def test_classifiers_differ_in_their_network_only():
    def members(kind):
        return {name for name in vars(kind) if name not in ("__module__", "__doc__", "__firstlineno__")}

    assert members(MLPClassifier) == members(ConvClassifier)
    assert (MLPClassifier.network_class, ConvClassifier.network_class) == (MLP, ConvNet)
    own = set(inspect.signature(SpikingClassifier).parameters) - {"network"}
    for kind in (MLPClassifier, ConvClassifier):
        assert set(inspect.signature(kind).parameters) == own | set(inspect.signature(kind.network_class).parameters)


class Plain(MLPClassifier):
    pass


class Extended(MLPClassifier):
    def __init__(self, *, extra: int = 1, **network) -> None:
        super().__init__(**network)
        self.extra = extra


class Narrow(MLP):
    def __init__(self, *, width: int = 8, **network) -> None:
        super().__init__(hidden=[width], **network)


class NarrowClassifier(NetworkClassifier):
    network_class = Narrow


BASE = {"label_smoothing": 0.0, "spike_weight": 0.0, "start_rate": "auto", "spike_target": (0.0, float("inf"))}
BASE["cuda_graph"] = False


@pytest.mark.parametrize(
    ("kind", "arguments", "more"),
    [
        (MLPClassifier, {"hidden": [5]}, {}),
        (Plain, {"hidden": [5]}, {}),
        (Extended, {"hidden": [5], "extra": 3}, {}),
        (Extended, {}, {"extra": 1}),
        (NarrowClassifier, {"width": 5}, {}),
    ],
)
def test_hyper_parameters_are_the_arguments_flat(kind, arguments, more):
    model = kind(**COMMON, **arguments)
    assert dict(model.hparams) == BASE | COMMON | arguments | more
    again = kind(**model.hparams)
    assert again.network.layer_sizes == model.network.layer_sizes
    assert getattr(again, "extra", None) == getattr(model, "extra", None)
