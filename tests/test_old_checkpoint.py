"""A checkpoint that was written before a value of an argument was renamed."""

from argparse import ArgumentError
from pathlib import Path

import pytest
import torch
import yaml

from ss_lightning import MLPClassifier, StandardSingleSpikeLeaky, UsageError
from ss_lightning.cli.lightning_cli import refuse_other_architecture
from ss_lightning.data import YinYangData
from ss_lightning.export.loading import load_classifier

RUN = Path(__file__).parent / "files" / "standard_neuron_run"
CHECKPOINT = RUN / "checkpoints" / "best.ckpt"


def test_it_classifies_as_it_did():
    model = load_classifier(CHECKPOINT)
    assert type(model.network.neurons[0]) is StandardSingleSpikeLeaky
    data = YinYangData(**yaml.safe_load((RUN / "config.yaml").read_text())["data"]["init_args"])
    with torch.no_grad():
        right = sum(int((model.scores(model(x)).argmax(1) == y).sum()) for x, y in data.val_dataloader())
    assert right == 79


def test_it_is_of_the_architecture_that_its_new_name_describes():
    arguments = torch.load(CHECKPOINT, weights_only=True)["hyper_parameters"]
    arguments = {key: value for key, value in arguments.items() if not key.startswith("_")}
    model = MLPClassifier(**(arguments | {"neuron": "standard_single"}))
    refuse_other_architecture(CHECKPOINT, model)
    with pytest.raises(UsageError, match="neuron: 'standard_single' in the checkpoint, 'single' in the config"):
        refuse_other_architecture(CHECKPOINT, MLPClassifier(**(arguments | {"neuron": "single"})))


def test_lightning_alone_refuses_it_and_lists_the_new_name():
    with pytest.raises(ArgumentError, match=r"neuron.*\n.*'standard_single'.* Got value: standard"):
        MLPClassifier.load_from_checkpoint(CHECKPOINT, weights_only=True)
    model = MLPClassifier.load_from_checkpoint(CHECKPOINT, weights_only=True, neuron="standard_single")
    assert type(model.network.neurons[0]) is StandardSingleSpikeLeaky
