"""Data sets as events: one LightningDataModule per data set, built on one flat store."""

from ss_lightning.binning import bin_events, bin_events_reference
from ss_lightning.data.audio_folder import AudioFolderData
from ss_lightning.data.augment import EventAugmentation, ImageAugmentation
from ss_lightning.data.cifar10 import CIFAR10Data
from ss_lightning.data.custom import EventData
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.dataset import EventDataset, identity
from ss_lightning.data.download import DownloadedData
from ss_lightning.data.event_folder import EventFolderData
from ss_lightning.data.folder_data import FolderData
from ss_lightning.data.image_folder import ImageFolderData
from ss_lightning.data.images import FashionMNISTData, LatencyImages, MNISTData
from ss_lightning.data.nmnist import NMNISTData
from ss_lightning.data.recording_files import Recording, read_recordings
from ss_lightning.data.recordings import RecordingFormat
from ss_lightning.data.samplers import EvaluationSampler, TrainingSampler
from ss_lightning.data.shd import HeidelbergData, SHDData, SSCData, held_out_speakers
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.data.store import EventStore
from ss_lightning.data.tonic_data import TonicData
from ss_lightning.data.yinyang import YinYangData

__all__ = [
    "AudioFolderData",
    "CIFAR10Data",
    "DownloadedData",
    "EvaluationSampler",
    "EventAugmentation",
    "EventData",
    "EventDataModule",
    "EventDataset",
    "EventFolderData",
    "EventStore",
    "FashionMNISTData",
    "FolderData",
    "HeidelbergData",
    "ImageAugmentation",
    "ImageFolderData",
    "LatencyImages",
    "MNISTData",
    "NMNISTData",
    "Recording",
    "RecordingFormat",
    "SHDData",
    "SSCData",
    "Splits",
    "Subset",
    "TonicData",
    "TrainingSampler",
    "YinYangData",
    "bin_events",
    "bin_events_reference",
    "held_out_speakers",
    "identity",
    "read_recordings",
]
