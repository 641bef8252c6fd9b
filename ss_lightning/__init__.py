"""Fast training of single-spike spiking neural networks on PyTorch Lightning and snnTorch.

Every name is imported when it is first used. So ``ss_lightning.functional``, which needs torch alone, works without
Lightning and snnTorch, and a command that needs little starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ss_lightning._version import __version__

if TYPE_CHECKING:
    from ss_lightning.data import (
        AudioFolderData,
        CIFAR10Data,
        EventData,
        EventDataModule,
        EventFolderData,
        FashionMNISTData,
        ImageFolderData,
        MNISTData,
        NMNISTData,
        SHDData,
        SSCData,
        TonicData,
        YinYangData,
    )
    from ss_lightning.errors import DataError, UsageError
    from ss_lightning.events import EventBatch
    from ss_lightning.export import load
    from ss_lightning.functional import single_spike
    from ss_lightning.module import ConvClassifier, MLPClassifier, SpikingClassifier
    from ss_lightning.networks import MLP, ConvNet
    from ss_lightning.neurons import (
        LeakyReadout,
        MultiSpikeLeaky,
        SingleSpikeLeaky,
        SingleSpikeSynaptic,
        StandardSingleSpikeLeaky,
        reset,
    )
    from ss_lightning.prediction import Prediction
    from ss_lightning.surrogate import ATan, FastSigmoid, Triangle

__all__ = [
    "MLP",
    "ATan",
    "AudioFolderData",
    "CIFAR10Data",
    "ConvClassifier",
    "ConvNet",
    "DataError",
    "EventBatch",
    "EventData",
    "EventDataModule",
    "EventFolderData",
    "FashionMNISTData",
    "FastSigmoid",
    "ImageFolderData",
    "LeakyReadout",
    "MLPClassifier",
    "MNISTData",
    "MultiSpikeLeaky",
    "NMNISTData",
    "Prediction",
    "SHDData",
    "SSCData",
    "SingleSpikeLeaky",
    "SingleSpikeSynaptic",
    "SpikingClassifier",
    "StandardSingleSpikeLeaky",
    "TonicData",
    "Triangle",
    "UsageError",
    "YinYangData",
    "__version__",
    "load",
    "reset",
    "single_spike",
]

# The modules whose names stand above, from those that import least to those that import most.
_HOMES = {
    "errors": ("DataError", "UsageError"),
    "events": ("EventBatch",),
    "surrogate": ("ATan", "FastSigmoid", "Triangle"),
    "functional": ("single_spike",),
    "neurons": (
        "LeakyReadout",
        "MultiSpikeLeaky",
        "SingleSpikeLeaky",
        "SingleSpikeSynaptic",
        "StandardSingleSpikeLeaky",
        "reset",
    ),
    "networks": ("MLP", "ConvNet"),
    "prediction": ("Prediction",),
    "module": ("ConvClassifier", "MLPClassifier", "SpikingClassifier"),
    "data": (
        "AudioFolderData",
        "CIFAR10Data",
        "EventData",
        "EventDataModule",
        "EventFolderData",
        "FashionMNISTData",
        "ImageFolderData",
        "MNISTData",
        "NMNISTData",
        "SHDData",
        "SSCData",
        "TonicData",
        "YinYangData",
    ),
    "export": ("load",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name (PEP 562)."""
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
