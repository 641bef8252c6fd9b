"""Networks of spiking neurons that read a whole sequence and return what a loss needs."""

from ss_lightning.networks.base import (
    LayerActivity,
    NetworkOutput,
    NeuronKind,
    Spikes,
    SpikingNetwork,
    evaluating,
    init_uniform,
)
from ss_lightning.networks.conv import ConvNet
from ss_lightning.networks.decoders import (
    Decoder,
    DecoderName,
    FirstSpikeDecoder,
    MaxDecoder,
    SoftmaxDecoder,
    SumDecoder,
    make_decoder,
)
from ss_lightning.networks.graphs import GraphedNetwork
from ss_lightning.networks.mlp import MLP
from ss_lightning.networks.time_constants import LogTau, decay, draw_decays

__all__ = [
    "MLP",
    "ConvNet",
    "Decoder",
    "DecoderName",
    "FirstSpikeDecoder",
    "GraphedNetwork",
    "LayerActivity",
    "LogTau",
    "MaxDecoder",
    "NetworkOutput",
    "NeuronKind",
    "SoftmaxDecoder",
    "Spikes",
    "SpikingNetwork",
    "SumDecoder",
    "decay",
    "draw_decays",
    "evaluating",
    "init_uniform",
    "make_decoder",
]
