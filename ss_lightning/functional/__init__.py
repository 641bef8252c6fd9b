"""Pure maths on time-major tensors ``[T, B, N]``: each fast function stands beside its readable reference."""

from ss_lightning.functional.backends import BACKENDS, choose_backend, import_kernels
from ss_lightning.functional.clamp import clamp_inward
from ss_lightning.functional.delay_line import delay_line, delay_line_reference
from ss_lightning.functional.delays import (
    delay_bump,
    delay_taps,
    delayed_events,
    delayed_linear,
    delayed_linear_reference,
)
from ss_lightning.functional.first_spike import (
    ESTIMATORS,
    Estimator,
    State,
    check_estimator,
    crossing_gradient,
    crossing_times,
    first_spike,
    first_spike_reference,
    first_spike_state,
    first_spike_step,
    first_spike_time,
    spikes_at,
)
from ss_lightning.functional.network import (
    NetworkSpikes,
    ReadoutLayer,
    SpikingLayer,
    check_network,
    event_network,
    event_network_reference,
)
from ss_lightning.functional.onset import raised_threshold, threshold_current
from ss_lightning.functional.scan import (
    as_like,
    beta_gradient,
    leaky_scan,
    leaky_scan_reference,
    scan_backward,
    scan_forward,
)
from ss_lightning.functional.single_spike import (
    SpikeGrad,
    check_arguments,
    check_beta,
    single_spike,
    single_spike_reference,
)
from ss_lightning.functional.synapse import event_linear, event_linear_reference

__all__ = [
    "BACKENDS",
    "ESTIMATORS",
    "Estimator",
    "NetworkSpikes",
    "ReadoutLayer",
    "SpikeGrad",
    "SpikingLayer",
    "State",
    "as_like",
    "beta_gradient",
    "check_arguments",
    "check_beta",
    "check_estimator",
    "check_network",
    "choose_backend",
    "clamp_inward",
    "crossing_gradient",
    "crossing_times",
    "delay_bump",
    "delay_line",
    "delay_line_reference",
    "delay_taps",
    "delayed_events",
    "delayed_linear",
    "delayed_linear_reference",
    "event_linear",
    "event_linear_reference",
    "event_network",
    "event_network_reference",
    "first_spike",
    "first_spike_reference",
    "first_spike_state",
    "first_spike_step",
    "first_spike_time",
    "import_kernels",
    "leaky_scan",
    "leaky_scan_reference",
    "raised_threshold",
    "scan_backward",
    "scan_forward",
    "single_spike",
    "single_spike_reference",
    "spikes_at",
    "threshold_current",
]
