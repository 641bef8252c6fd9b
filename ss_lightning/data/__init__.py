"""Data sets as events: one LightningDataModule per data set, built on one flat store."""

from ss_lightning.data.augment import EventAugmentation, ImageAugmentation
from ss_lightning.data.base import EventDataModule, Splits, Subset
from ss_lightning.data.binning import bin_events, bin_events_reference
from ss_lightning.data.custom import EventData
from ss_lightning.data.events import EventDataset, EventStore, identity
from ss_lightning.data.images import FashionMNISTData, MNISTData
from ss_lightning.data.shd import SHDData
from ss_lightning.data.yinyang import YinYangData

__all__ = [
    "EventAugmentation",
    "EventData",
    "EventDataModule",
    "EventDataset",
    "EventStore",
    "FashionMNISTData",
    "ImageAugmentation",
    "MNISTData",
    "SHDData",
    "Splits",
    "Subset",
    "YinYangData",
    "bin_events",
    "bin_events_reference",
    "identity",
]
