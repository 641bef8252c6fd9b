"""A linear layer whose spikes arrive after delays that it learns, and how their bumps narrow during training."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ss_lightning.events import EventBatch
from ss_lightning.functional.clamp import clamp_inward
from ss_lightning.functional.delays import delayed_events, delayed_linear


class DelayedLinear(nn.Module):
    """``nn.Linear`` over time with learned delays, see :func:`ss_lightning.functional.delays.delayed_linear`.

    In training a spike arrives spread over ``width`` steps around its delay, and :func:`narrow_delays` narrows that. In
    evaluation (``eval()``) every delay is rounded to a whole step.

    Args:
        in_features: presynaptic units ``N_in``.
        out_features: neurons ``N_out``.
        max_delay_ms: the longest delay in milliseconds; rounded to whole steps, at least one.
        step_ms: length of a time step in milliseconds.
        per_synapse: a delay for every synapse instead of one for every presynaptic unit (axonal). Costs more: see
            :mod:`ss_lightning.functional.kernels.delays_numba`.
        bias: learn a bias, zero at the start.
        start_width_ms: half-width of the bump in milliseconds before :func:`narrow_delays` narrows it; None for half
            of ``max_delay_ms``. Never less than one step. The work grows in proportion.
        backend: ``torch``, ``numba`` (CPU) or ``auto``.

    Attributes:
        weight: ``[N_out, N_in]``, uniform within ``1 / sqrt(N_in)`` at the start.
        delay: ``[N_in]`` or ``[N_out, N_in]``, as a fraction of the longest delay, uniform in ``[0, 1]`` at the start:
            one learning rate suits weights and delays, whatever the step and the longest delay are. Adam at 1e-3
            moves a delay by a thousandth of the longest one per update. Delays in milliseconds: :meth:`delay_ms`.
        max_delay: the longest delay in steps.
        width: half-width of the bump in steps. Not in the state dict: it follows from the progress of the training.

    Raises:
        ValueError: a size, time or width is not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        max_delay_ms: float,
        step_ms: float,
        per_synapse: bool = False,
        bias: bool = True,
        start_width_ms: float | None = None,
        backend: Literal["auto", "torch", "numba"] = "auto",
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ValueError(f"need at least one input and one output, got {in_features} and {out_features}")
        start_width_ms = max_delay_ms / 2 if start_width_ms is None else start_width_ms
        for name, value in (("step_ms", step_ms), ("max_delay_ms", max_delay_ms), ("start_width_ms", start_width_ms)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number of milliseconds, got {value}")
        self.in_features, self.out_features = in_features, out_features
        self.step_ms = step_ms
        self.max_delay = max(1, round(max_delay_ms / step_ms))
        self.start_width = max(1.0, start_width_ms / step_ms)
        self.width = self.start_width
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.delay = nn.Parameter(torch.empty((out_features, in_features) if per_synapse else (in_features,)))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and delays anew; bias zero."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.delay)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def per_synapse(self) -> bool:
        """Whether every synapse has its own delay."""
        return self.delay.dim() == 2

    def delay_steps(self) -> Tensor:
        """Delays in steps, within ``[0, max_delay]``, shaped like :attr:`delay` and differentiable.

        A delay on the border, or pushed beyond it by the optimizer, keeps the gradient that leads back.
        """
        return clamp_inward(self.delay) * self.max_delay

    def delay_ms(self) -> Tensor:
        """Delays in milliseconds, without gradient."""
        return self.delay_steps().detach() * self.step_ms

    def forward(self, spikes: EventBatch | Tensor) -> Tensor:
        """Current ``[T, B, N_out]`` of events or of a time-major tensor ``[T, B, N_in]``."""
        return delayed_linear(
            spikes,
            self.weight,
            self.delay_steps(),
            self.bias,
            width=self._width(),
            max_delay=self.max_delay,
            backend=self.backend,
        )

    def late_events(self, events: EventBatch) -> tuple[EventBatch, Tensor]:
        """Events and weights that need no delays, see :func:`ss_lightning.functional.delays.delayed_events`."""
        return delayed_events(events, self.weight, self.delay_steps(), width=self._width(), max_delay=self.max_delay)

    def _width(self) -> float:
        return self.width if self.training else 0.0

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"max_delay={self.max_delay}, per_synapse={self.per_synapse}, width={self.width:g}"
        )


def narrow_delays(network: nn.Module, progress: float) -> None:
    """Narrow the bumps of every :class:`DelayedLinear` inside ``network``, from the start width to one step.

    The width falls exponentially: ``start ** (1 - progress)`` steps. At one step the bump is linear interpolation, the
    nearest to the whole steps of evaluation that still has a gradient.

    Args:
        network: any module.
        progress: how far the narrowing is: 0 at its start; 1 and more is the end.
    """
    remaining = 1 - min(max(progress, 0.0), 1.0)
    for layer in network.modules():
        if isinstance(layer, DelayedLinear):
            layer.width = layer.start_width**remaining
