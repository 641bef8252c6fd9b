"""What a run leaves in its folder, and how it is read again."""

from ss_lightning.runs.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    MetricsLogger,
    read_checkpoint,
)
from ss_lightning.runs.comparison import refuse_other_architecture
from ss_lightning.runs.configs import comparable_config, config_differences, flatten_config
from ss_lightning.runs.folders import config_name, find_checkpoint, reserve_run
from ss_lightning.runs.history import EpochHistory, best_epoch
from ss_lightning.runs.machine import machine
from ss_lightning.runs.pictures import Pictures, draw_history, draw_network
from ss_lightning.runs.predictions import PredictionWriter
from ss_lightning.runs.progress import EpochLines
from ss_lightning.runs.reading import Run, read_run
from ss_lightning.runs.record import RunRecord
from ss_lightning.runs.statistics import GroupStatistics, over_groups

__all__ = [
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "EpochHistory",
    "EpochLines",
    "GroupStatistics",
    "LastCheckpoint",
    "MetricsLogger",
    "Pictures",
    "PredictionWriter",
    "Run",
    "RunRecord",
    "best_epoch",
    "comparable_config",
    "config_differences",
    "config_name",
    "draw_history",
    "draw_network",
    "find_checkpoint",
    "flatten_config",
    "machine",
    "over_groups",
    "read_checkpoint",
    "read_run",
    "refuse_other_architecture",
    "reserve_run",
]
