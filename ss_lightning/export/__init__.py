"""Trained networks for other tools: NIR for simulators and neuromorphic chips, ``torch.export`` programs, ONNX.

NIR (Neuromorphic Intermediate Representation, Pedersen et al., doi 10.1038/s41467-024-52259-9) describes neurons in
continuous time. The mapping is snnTorch's: a decay ``beta`` per step of ``dt`` seconds is ``tau = dt / (1 - beta)`` and
``r = tau / dt``, for then one Euler step of ``tau dV/dt = r I - V`` is exactly ``V[t] = beta * V[t-1] + I[t]``.

NIR has no neuron that fires once. Such a neuron is written as a plain ``LIF`` whose metadata say so, together with
everything that makes the way back exact; :func:`from_nir` honours them, other readers see an ordinary ``LIF``. For them
there is a form that inhibits itself, see :func:`to_nir`.
"""

from ss_lightning.export.checkpoint_export import export_checkpoint, main
from ss_lightning.export.loading import load, load_classifier
from ss_lightning.export.nir_export import inhibition_horizon, to_nir
from ss_lightning.export.nir_import import from_nir
from ss_lightning.export.nir_layers import ExportWarning
from ss_lightning.export.torch_export import export_program, export_step, to_onnx

__all__ = [
    "ExportWarning",
    "export_checkpoint",
    "export_program",
    "export_step",
    "from_nir",
    "inhibition_horizon",
    "load",
    "load_classifier",
    "main",
    "to_nir",
    "to_onnx",
]
