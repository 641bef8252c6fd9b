"""Values as Python's own, which every reader of a file understands without the library that they came from."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain_values(value: Any) -> Any:
    """A value with Python's own numbers, text and containers in the place of NumPy's.

    A checkpoint with anything else could only be read by running code that it names, so it is refused when a training
    is to go on from it. Tensors stay as they are, and so does what is not known here.

    Args:
        value: a number, a text, an array (becomes a list), or a container of them at any depth.

    Example:
        >>> plain_values({"step_ms": np.float64(1), "hidden": [np.int64(8)], "taus": np.array([2.5, 5.0])})
        {'step_ms': 1.0, 'hidden': [8], 'taus': [2.5, 5.0]}
    """
    if isinstance(value, np.longdouble):  # its item() is itself
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, range):
        return list(value)
    if isinstance(value, Mapping):
        content = {plain_values(key): plain_values(item) for key, item in value.items()}
        if isinstance(value, Counter | OrderedDict):
            return (Counter if isinstance(value, Counter) else OrderedDict)(content)
        return content
    if isinstance(value, set | frozenset):
        return {plain_values(item) for item in value}
    if isinstance(value, list):
        return [plain_values(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain_values(item) for item in value)
    return value


def plain_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint whose hyper-parameters and states are :func:`plain_values`; its weights stay the same objects."""
    return {key: value if key == "state_dict" else plain_values(value) for key, value in checkpoint.items()}
