"""Whether somebody wants the layers of a network to be called one after the other.

Fused kernels go from the input to the readout in one call, so a hook on a layer in between would never run, and a layer
that was replaced would be passed over.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_watched(layers: Iterable[nn.Module], known: tuple[type[nn.Module], ...]) -> bool:
    """Whether hooks or a mode that counts operations are at work, or a layer is computed in another way than planned.

    Args:
        layers: the layers that would not be called.
        known: what they are expected to be. A parametrisation, which makes a subclass, changes nothing.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> is_watched([layer], (nn.Linear,))
        False
        >>> handle = layer.register_forward_hook(lambda *call: None)
        >>> is_watched([layer], (nn.Linear,))
        True
    """
    if torch_module._has_any_global_hook() or _get_current_dispatch_mode() is not None:
        return True
    forwards = [kind.forward for kind in known]
    return any(
        "forward" in vars(layer)
        or type(layer).forward not in forwards
        or any(getattr(part, hooks) for part in layer.modules() for hooks in _HOOKS)
        for layer in layers
    )
