"""The Triton kernels: interpreted on the CPU against plain autograd, compiled for a GPU that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ss_lightning.events import EventBatch
from ss_lightning.functional.network import event_network, event_network_reference
from ss_lightning.surrogate import ATan, FastSigmoid, Triangle
from tests.functional.test_network import Case, assert_same

pytest.importorskip("triton")

SURROGATES = [FastSigmoid(10), ATan(2), Triangle(1)]
ESTIMATORS = ["ramp", "survival", "flat", "masked"]
CASES = [
    Case(),
    Case(num_steps=1, batch_size=1, sizes=(3, 5)),
    Case(sizes=(6, 9, 7, 5), skip=True, seed=1),
    Case(sizes=(6, 9, 7), beta=1.0, scalars=True, bias=False, threshold=-0.5),
    Case(sizes=(4, 140), beta=0.0, density=0.05),  # more than one block of neurons
    Case(density=0.0, scale=1e-3, threshold=2.0),  # silent
    Case(sizes=(6, 9, 7), bias_over_time=True, dropout=0.4, skip=True, seed=2),
]


def check_all(device: str) -> None:
    """Every case, estimator and surrogate on a device: spike times, output and gradients."""
    for number, case in enumerate(CASES):
        for estimator in ESTIMATORS:
            surrogate = SURROGATES[(number + ESTIMATORS.index(estimator)) % 3]
            options = {"surrogate": surrogate, "estimator": estimator}
            expected = case.run(event_network_reference, **options)
            found = on(case, device).run(backend="triton", **options)
            out, times, grads = (move(part) for part in found)
            assert_same((out, times, grads), expected, 1e-10)
    wrong = on(CASES[0], device)
    with torch.no_grad():
        wrong.hidden[0].beta[0] += 1e-3
    with pytest.raises(AssertionError):
        assert_same([move(part) for part in wrong.run(backend="triton")], CASES[0].run(event_network_reference), 1e-10)


def on(case: Case, device: str) -> Case:
    """The same case on a device."""
    moved = replace(case)
    layers = [
        type(layer)(
            *(None if v is None else v.detach().clone().to(device).requires_grad_(v.requires_grad) for v in layer)
        )
        for layer in (*case.hidden, case.readout)
    ]
    moved.hidden, moved.readout = layers[:-1], layers[-1]
    moved.events, moved.grad = case.events.to(device), case.grad.to(device)
    moved.grad_counts = [grad.to(device) for grad in case.grad_counts]
    return moved


def move(part):
    """Tensors back on the CPU."""
    return part.cpu() if isinstance(part, torch.Tensor) else [tensor.cpu() for tensor in part]


def test_interpreted_kernels_equal_the_reference():
    code = "from tests.functional.kernels.test_network_triton import check_all; check_all('cpu')"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=environment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_the_gpu_equal_the_reference():
    check_all("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_on_the_gpu_at_the_size_of_shd():
    torch.manual_seed(0)
    case = Case(num_steps=500, batch_size=16, sizes=(700, 300), num_classes=20, density=0.02, scale=0.05)
    expected = case.run(event_network_reference)
    out, times, grads = (move(part) for part in on(replace(case, dtype=torch.float32), "cuda").run(backend="triton"))
    assert_same((out.double(), times, [grad.double() for grad in grads]), expected, 1e-4)


def test_without_a_gpu_and_without_the_interpreter_it_says_so():
    case = Case()
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match="it runs on CUDA"):
            event_network(case.events, case.hidden, case.readout, backend="triton")


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_every_kernel_compiles_for_a_gpu(precision):
    """To machine code for an H100, which needs no GPU; the interpreter alone would let wrong types pass."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ss_lightning.functional.kernels import network_triton as kernels

    floats, ints = f"*{precision}", "*i32"
    layer = {"units": ints, "offsets": ints, **dict.fromkeys(("table", "bias", "beta"), floats)}
    spiking = {**layer, "threshold": floats, "bias_stride": "i32", "times": ints}
    sizes = {"num_steps": "i32", "size": "i32"}
    grads = dict.fromkeys(("grad", "membrane", "grad_bias", "grad_beta", "grad_threshold"), floats)
    jobs = [
        (kernels._first_times, {**spiking, **sizes}, {}),
        (kernels._readout_membrane, {**layer, "out": floats, **sizes}, {}),
        (
            kernels._readout_backward,
            {**dict.fromkeys(("grad", "membrane", "beta", "out", "grad_bias", "grad_beta"), floats), **sizes},
            {},
        ),
        (
            kernels._weight_gradient,
            {"starts": "*i64", "rows": "*i64", "grad_current": floats, "out": floats, "size": "i32"},
            {},
        ),
    ]
    for estimator in range(3):
        constants = {"ESTIMATOR": estimator, "SURROGATE": estimator}
        jobs.append((kernels._layer_backward, {**spiking, "shape": floats, **grads, **sizes}, constants))
    for kernel, signature, constants in jobs:
        constants = {**constants, "BLOCK": 128}
        source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        assert "fma.rn" not in compiled.asm["ptx"] or kernel is kernels._readout_backward, "one rounding too few"


def test_spikes_of_hidden_layers_become_events():
    from ss_lightning.functional.kernels.network_triton import slice_events, spike_events

    times = [torch.tensor([[2, 5, 0], [5, 5, 5]]), torch.tensor([[2], [4]])]
    events = spike_events(times, 5)
    expected = torch.zeros(5, 2, 4)
    expected[2, 0, 0] = expected[0, 0, 2] = expected[2, 0, 3] = expected[4, 1, 3] = 1
    assert torch.equal(events.to_dense(), expected)
    assert torch.equal(slice_events(events, 1, 2).to_dense(), expected[:, 1:])
    assert isinstance(events, EventBatch)
