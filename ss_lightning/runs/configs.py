"""Configs of runs as flat mappings, and what of them makes two runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dots in its keys, as they are written on the command line."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Parts of a config that say how a run was done, not what was trained.
_NOT_COMPARED = (
    "checkpoint.verbose", "ckpt_path", "pictures.", "trainer.default_root_dir", "trainer.enable_",
    "trainer.log_every_n_steps", "trainer.logger",
)  # fmt: skip
# Parts of a config's data that say how they are fetched, and with those of an evaluation how they are presented.
_HOW_FETCHED = (".cache_dir", ".download", ".num_workers", ".pin_memory")
_HOW_PRESENTED = (*_HOW_FETCHED, ".batch_size", ".input")


def comparable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened config without the parts that change no result."""
    return {
        key: value
        for key, value in config.items()
        if not key.startswith(_NOT_COMPARED) and not (key.startswith("data.") and key.endswith(_HOW_FETCHED))
    }


def data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a flattened config that says which data were used."""
    return {k: v for k, v in config.items() if k.startswith("data.") and not k.endswith(_HOW_PRESENTED)}


# Endings of the keys of a config's data that name files and folders.
_PLACES = (".root", ".folder", ".path", ".dir", ".train", ".test", ".val")


def data_source(config: Mapping[str, Any]) -> str:
    """Which data a flattened config names: its class and where its files lie. Runs of one source can be compared."""
    name = str(config.get("data.class_path", "")).rpartition(".")[2]
    places = [str(v) for k, v in sorted(config.items()) if k.startswith("data.") and k.endswith(_PLACES) and v]
    return ", ".join([*([name] if name else []), *places]) or "data"


# Settings that earlier versions did not have, and what they did.
_BEFORE = {"lr_scheduler_interval": "epoch"}


def config_differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings that are not the same in all flattened configs, with the value in each; empty where it is not set."""
    keys = sorted(set().union(*map(comparable_config, configs)))
    values = {key: [config.get(key, _BEFORE.get(key, "")) for config in configs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}
