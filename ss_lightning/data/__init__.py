"""Data sets as events: one LightningDataModule per data set, built on one flat store."""

from ss_lightning.data.augment import EventAugmentation, ImageAugmentation
from ss_lightning.data.binning import bin_events, bin_events_reference
from ss_lightning.data.cifar10 import CIFAR10Data
from ss_lightning.data.custom import EventData
from ss_lightning.data.datamodule import EventDataModule, Splits, Subset
from ss_lightning.data.images import FashionMNISTData, MNISTData
from ss_lightning.data.nmnist import NMNISTData
from ss_lightning.data.shd import SHDData, SSCData
from ss_lightning.data.store import EventDataset, EventStore, identity
from ss_lightning.data.yinyang import YinYangData

__all__ = [
    "CIFAR10Data",
    "EventAugmentation",
    "EventData",
    "EventDataModule",
    "EventDataset",
    "EventStore",
    "FashionMNISTData",
    "ImageAugmentation",
    "MNISTData",
    "NMNISTData",
    "SHDData",
    "SSCData",
    "Splits",
    "Subset",
    "YinYangData",
    "bin_events",
    "bin_events_reference",
    "identity",
]
