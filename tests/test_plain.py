from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from ss_lightning.plain import plain_checkpoint, plain_values


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.longdouble(2), 2.0),
        (np.int64(8), 8),
        (np.uint8(8), 8),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array(3.0), 3.0),
        ([np.int64(8), (np.float64(1), "b")], [8, (1.0, "b")]),
        ({np.int64(1): {"a": np.array([1.0])}}, {1: {"a": [1.0]}}),
        ({np.int64(2)}, {2}),
        (range(3), [0, 1, 2]),
        (Path("a") / "b", "a/b"),
        (Counter([np.int64(3)]), Counter([3])),
        (OrderedDict(a=np.int64(1)), OrderedDict(a=1)),
        (None, None),
    ],
)
def test_values_are_those_of_python(value, plain, tmp_path):
    found = plain_values(value)
    assert found == plain
    assert type(found) is type(plain)
    torch.save(found, tmp_path / "file")  # which finds NumPy's own at any depth
    assert torch.load(tmp_path / "file", weights_only=True) == plain


def test_tensors_stay_the_same_objects():
    tensor = torch.zeros(2)
    assert plain_values([tensor])[0] is tensor
    weights = OrderedDict(a=tensor)
    assert plain_checkpoint({"state_dict": weights})["state_dict"] is weights
