import pytest

from ss_lightning import SingleSpikeLeaky
from ss_lightning.experiments.step_loops import PROGRAMS, loop, main, verdict


def survival(*arguments, **options):
    return SingleSpikeLeaky(*arguments, estimator="survival", **options)


ERRORS = {
    "each step checkpointed, `init_hidden=True`": "RuntimeError: SingleSpikeLeaky with init_hidden=True is computed",
    "reset forgotten, in training": "RuntimeError: The backward pass reached a step whose graph has been freed",
    "reset forgotten, without gradients": "0 spikes instead of 11; a warning names the reset",
}


@pytest.mark.parametrize("neuron", [SingleSpikeLeaky, survival])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_is_right_or_refused(name, neuron):
    assert verdict(PROGRAMS[name], neuron).startswith(ERRORS.get(name, "equal"))


def test_a_wrong_program_is_seen():
    """Negative controls: spikes that are lost, and a gradient that is lost."""

    def forgets(make, current):
        return loop(make(), current, between=lambda t, mem: mem.plain()), loop(make(), current)

    def cuts(make, current):
        return loop(make(), current, between=lambda t, mem: mem.detach()), loop(make(), current)

    assert "spikes instead of 11" in verdict(forgets, SingleSpikeLeaky)
    assert "gradients off by" in verdict(cuts, SingleSpikeLeaky)


def test_the_tables(capsys):
    assert main(["programs"]) == 0
    assert capsys.readouterr().out.count("\n") == 2 + len(PROGRAMS)
    assert main(["speed", "--steps=3", "--batch=2", "--neurons=2", "--rounds=1"]) == 0
    assert capsys.readouterr().out.count("\n| `") == 4
    with pytest.raises(SystemExit):
        main(["speed", "--rounds=0"])
