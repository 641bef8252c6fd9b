"""Networks of spiking neurons that read a whole sequence and return what a loss needs."""

from ss_lightning.networks.base import (
    MLP,
    ConvNet,
    LayerActivity,
    NetworkOutput,
    Spikes,
    SpikingNetwork,
    evaluating,
)

__all__ = ["MLP", "ConvNet", "LayerActivity", "NetworkOutput", "Spikes", "SpikingNetwork", "evaluating"]
