"""The examples in the docstrings print what they say, and the names that people start from have one."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import ss_lightning

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ss_lightning.__path__, "ss_lightning.")
    if not module.name.endswith(("__main__", "_triton"))
)
# Where a newcomer begins: each shows itself at work.
START = (
    "ConvNet",
    "EventBatch",
    "EventData",
    "LeakyReadout",
    "MLP",
    "MLPClassifier",
    "SingleSpikeLeaky",
    "SpikingClassifier",
    "YinYangData",
    "reset",
    "single_spike",
)


def examples(module):
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    tests = examples(import_module(name))
    if not tests:
        pytest.skip("no examples")
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said = []
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", START)
def test_the_first_names_have_an_example(name):
    thing = getattr(ss_lightning, name)
    assert ">>>" in (thing.__doc__ or "") or any(">>>" in (vars(thing)[part].__doc__ or "") for part in vars(thing))
