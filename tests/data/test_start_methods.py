"""Workers of a loader, however the platform starts them: by fork (Linux), spawn (macOS, Windows) or forkserver."""

import multiprocessing

import lightning as L
import numpy as np
import pytest

from ss_lightning import MLPClassifier
from ss_lightning.data import EventAugmentation, EventData

HERE = multiprocessing.get_all_start_methods()


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_index):
        self.values.append(outputs["loss"].item())


def losses(recordings, num_workers):
    """The loss of every step of two epochs, with recordings that are changed at random."""
    L.seed_everything(3, verbose=False)
    data = EventData.from_arrays(
        recordings(24), num_units=7, num_steps=25, step_ms=2.0, batch_size=8, val_fraction=0,
        num_workers=num_workers, augment=EventAugmentation(time_shift_ms=4.0, unit_dropout=0.2),
    )  # fmt: skip
    model = MLPClassifier(input_shape=[7], num_classes=3, step_ms=2.0, hidden=[9], input_gain=9.0)
    kept = Losses()
    trainer = L.Trainer(
        max_epochs=2, callbacks=[kept], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, data)
    return kept.values


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_losses_are_those_without_workers(recordings, method):
    if method not in HERE:
        pytest.skip(f"this platform does not {method}")
    before = multiprocessing.get_start_method(allow_none=True)
    alone = losses(recordings, 0)
    multiprocessing.set_start_method(method, force=True)
    try:
        assert losses(recordings, 1) == alone
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert len(alone) == 6
    assert np.isfinite(alone).all()
    assert len(set(alone)) == 6
