import math

import pytest

from ss_lightning.cli.advice import idle_keys, rising_rate

DEFAULTS = {"spike_target": [0.0, math.inf], "spike_weight": 0.0, "learn_beta": True, "log_tau": False}
DELAYS = {"max_delay_ms": 0.0, "delay_per_synapse": False, "delay_width_ms": None, "delay_line_ms": [0.0]}


@pytest.mark.parametrize("model", [{}, DEFAULTS, DEFAULTS | DELAYS, {"anything": 1}, dict.fromkeys(DEFAULTS | DELAYS)])
def test_what_works_is_not_noted(model):
    assert idle_keys(model, 100.0) == []


@pytest.mark.parametrize(
    ("alone", "switch", "reason"),
    [
        ({"spike_target": [0.0, 0.5]}, {"spike_weight": 1.0}, "model.spike_weight is 0"),
        ({"spike_weight": 2.0}, {"spike_target": [0.1, math.inf]}, "lies in model.spike_target"),
        ({"log_tau": True, "learn_beta": False}, {"learn_beta": True}, "model.learn_beta is false"),
        ({"delay_per_synapse": True}, {"max_delay_ms": 5.0}, "model.max_delay_ms is 0"),
        ({"delay_width_ms": 3.0}, {"max_delay_ms": 5.0}, "model.max_delay_ms is 0"),
    ],
)
def test_a_key_without_its_switch_is_noted(alone, switch, reason):
    (note,) = idle_keys(DEFAULTS | DELAYS | alone, 100.0)
    name = next(iter(alone))
    assert note.startswith(f"model.{name} = {alone[name]} does nothing: ")
    assert reason in note
    assert idle_keys(DEFAULTS | DELAYS | alone | switch, 100.0) == []


@pytest.mark.parametrize(
    ("delays", "notes"),
    [
        ({"delay_line_ms": [0, 99]}, 0),
        ({"delay_line_ms": [0, 100, 250]}, 2),
        ({"max_delay_ms": 99.0}, 0),
        ({"max_delay_ms": 100.0}, 1),
    ],
)
def test_delays_beyond_the_sample_are_noted(delays, notes):
    found = idle_keys(DEFAULTS | DELAYS | delays, 100.0)
    assert len(found) == notes
    assert all("a sample ends after data.num_steps * data.step_ms = 100 ms" in note for note in found)
    assert idle_keys(DEFAULTS | DELAYS | delays, None) == []


@pytest.mark.parametrize(
    ("name", "max_epochs", "notes"),
    [("CosineAnnealingLR", 11, 1), ("CosineAnnealingLR", 10, 0), ("CosineAnnealingLR", None, 0), ("StepLR", 11, 0)],
)
def test_a_cosine_shorter_than_the_training_is_noted(name, max_epochs, notes):
    scheduler = {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": {"T_max": 10}}
    assert len(rising_rate(scheduler, max_epochs)) == notes
    assert rising_rate(None, max_epochs) == []
