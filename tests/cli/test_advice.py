import math

import pytest

from ss_lightning.cli.advice import idle_data_keys, idle_keys, idle_parts, rising_rate

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


def test_keys_of_spikes_are_noted_beside_constant_currents():
    spikes = {"code": "latency", "background": "silent", "binning": "count"}
    assert idle_data_keys(spikes) == idle_data_keys({"binning": "count"}) == idle_data_keys({"code": "current"}) == []
    background, binning = idle_data_keys(spikes | {"code": "current"})
    assert background.startswith("data.background = silent does nothing: data.code is current")
    assert binning.startswith("data.binning = count does nothing")


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


# Schedules of ten steps.
SCHEDULES = {
    "ConstantLR": {"total_iters": 10},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 10},
    "CyclicLR": {"step_size_up": 4, "step_size_down": 6},
    "LinearLR": {"total_iters": 10},
    "MultiStepLR": {"milestones": [3, 10]},
    "OneCycleLR": {"total_steps": 10},
    "PolynomialLR": {"total_iters": 10},
    "SequentialLR": {"milestones": [4, 10]},
    "StepLR": {"step_size": 10},
}


def schedule(name, **arguments):
    return {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": arguments}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_longer_than_the_training_is_noted(name):
    scheduler = schedule(name, **SCHEDULES[name])
    assert rising_rate(scheduler, 10) == rising_rate(scheduler, 2, 5) == []
    (note,) = rising_rate(scheduler, 9)
    assert " = 10 is counted in epochs, but trainer.max_epochs is 9. If it counts updates, add" in note
    (note,) = rising_rate(scheduler, 3, 3)
    assert " = 10 is counted in updates, but trainer.max_epochs is 3, which is 9 updates" in note


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_shorter_schedule_is_noted_where_it_has_no_good_end(name):
    notes = rising_rate(schedule(name, **SCHEDULES[name]), 11)
    bad = {"CosineAnnealingLR": "then rises again", "OneCycleLR": "has no value, which is an error"}
    assert len(notes) == (name in bad)
    assert not notes or bad[name] in notes[0]


@pytest.mark.parametrize("max_epochs", [None, -1, 0])
def test_without_a_number_of_epochs_no_schedule_is_noted(max_epochs):
    assert rising_rate(schedule("CosineAnnealingLR", T_max=10), max_epochs) == []


def test_schedules_with_defaults_and_without_a_length():
    assert rising_rate(None, 3) == rising_rate(schedule("ExponentialLR", gamma=0.9), 3) == []
    assert rising_rate({"class_path": "torch.optim.lr_scheduler.CyclicLR"}, 3)  # 4000 steps
    assert rising_rate(schedule("OneCycleLR", total_steps=None, epochs=3, steps_per_epoch=157), 3)


@pytest.mark.parametrize(
    ("subcommand", "trainer", "said"),
    [
        ("fit", {"limit_train_batches": 0}, "nothing is trained"),
        ("fit", {"limit_train_batches": 0.0}, "nothing is trained"),
        ("fit", {"max_epochs": 0}, "nothing is trained"),
        ("fit", {"max_steps": 0}, "nothing is trained"),
        ("fit", {"limit_val_batches": 0}, "nothing is validated"),
        ("fit", {"max_epochs": 3, "check_val_every_n_epoch": 4}, "nothing is validated"),
        ("validate", {"limit_val_batches": 0}, "nothing is evaluated"),
        ("test", {"limit_test_batches": 0}, "nothing is evaluated"),
        ("predict", {"limit_predict_batches": 0}, "nothing is evaluated"),
    ],
)
def test_a_trainer_that_does_nothing_is_noted(subcommand, trainer, said):
    (note,) = idle_parts(trainer, subcommand)
    assert said in note
    assert next(iter(trainer)) in note or "check_val_every_n_epoch" in note


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_a_trainer_that_does_something_is_not_noted(subcommand):
    plain = {"max_epochs": 3, "max_steps": -1, "limit_val_batches": None, "check_val_every_n_epoch": 3}
    assert idle_parts(plain, subcommand) == idle_parts({**plain, "max_epochs": -1}, subcommand) == []
    assert idle_parts({**plain, "max_epochs": None, "limit_train_batches": 1}, subcommand) == []
