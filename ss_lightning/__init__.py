"""Fast training of single-spike spiking neural networks on PyTorch Lightning and snnTorch."""

from ss_lightning._version import __version__
from ss_lightning.data import (
    CIFAR10Data,
    EventData,
    EventDataModule,
    FashionMNISTData,
    MNISTData,
    NMNISTData,
    SHDData,
    SSCData,
    YinYangData,
)
from ss_lightning.errors import DataError, UsageError
from ss_lightning.events import EventBatch
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
from ss_lightning.surrogate import ATan, FastSigmoid, Triangle

__all__ = [
    "MLP",
    "ATan",
    "CIFAR10Data",
    "ConvClassifier",
    "ConvNet",
    "DataError",
    "EventBatch",
    "EventData",
    "EventDataModule",
    "FashionMNISTData",
    "FastSigmoid",
    "LeakyReadout",
    "MLPClassifier",
    "MNISTData",
    "MultiSpikeLeaky",
    "NMNISTData",
    "SHDData",
    "SSCData",
    "SingleSpikeLeaky",
    "SingleSpikeSynaptic",
    "SpikingClassifier",
    "StandardSingleSpikeLeaky",
    "Triangle",
    "UsageError",
    "YinYangData",
    "__version__",
    "reset",
    "single_spike",
]
