"""Pure maths on time-major tensors ``[T, B, N]``: each fast function stands beside its readable reference."""

from ss_lightning.functional.clamp import clamp_inward
from ss_lightning.functional.delays import delayed_events, delayed_linear, delayed_linear_reference
from ss_lightning.functional.first_spike import (
    ESTIMATORS,
    first_spike,
    first_spike_reference,
    first_spike_state,
    first_spike_step,
    first_spike_time,
)
from ss_lightning.functional.scan import leaky_scan, leaky_scan_reference
from ss_lightning.functional.single_spike import single_spike, single_spike_reference
from ss_lightning.functional.synapse import event_linear, event_linear_reference

__all__ = [
    "ESTIMATORS",
    "clamp_inward",
    "delayed_events",
    "delayed_linear",
    "delayed_linear_reference",
    "event_linear",
    "event_linear_reference",
    "first_spike",
    "first_spike_reference",
    "first_spike_state",
    "first_spike_step",
    "first_spike_time",
    "leaky_scan",
    "leaky_scan_reference",
    "single_spike",
    "single_spike_reference",
]
