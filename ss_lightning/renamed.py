"""Arguments and config keys with another name in earlier versions: the old one is answered with the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The argument, or the last part of a key such as data.init_args.unit_bin, and what it is called now.
KEYS = {"unit_bin": "units_per_input", "spare_test_file": "exclude_test_file"}
# Values of an argument, likewise.
VALUES = {"neuron": {"standard": "standard_single"}}


def renamed_key(name: str) -> str | None:
    """A sentence that names the argument's new name; None if it has not been renamed."""
    return f"{name} is now called {KEYS[name]}." if name in KEYS else None


def renamed_value(name: str, value: Any) -> str | None:
    """A sentence that names the new name of a value of an argument; None if it has not been renamed."""
    values = VALUES.get(name, {})
    return f"{name}: {value} is now called {values[value]}." if isinstance(value, str) and value in values else None


def with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened config of any version in the names of this one."""
    new = {}
    for key, value in config.items():
        before, dot, name = key.rpartition(".")
        values = VALUES.get(name, {})
        new[f"{before}{dot}{KEYS.get(name, name)}"] = values.get(value, value) if isinstance(value, str) else value
    return new
