"""Which kernels are chosen, and what is said where they cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ss_lightning.functional import backends, choose_backend, leaky_scan, single_spike
from ss_lightning.functional.kernels import network_numba
from ss_lightning.surrogate import ATan, FastSigmoid, Surrogate, Triangle

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@dataclass(frozen=True)
class Narrow(FastSigmoid):
    """A user's own: the kernels would compute the derivative of its base."""

    def derivative(self, x: Tensor) -> Tensor:
        return super().derivative(x) / 2


@dataclass(frozen=True)
class Box(Surrogate):
    """A user's own, of a kind that no kernel knows."""

    slope: float = 1.0
    kind = "box"

    def derivative(self, x: Tensor) -> Tensor:
        return (x.abs() * self.slope < 1).to(x.dtype)


@pytest.mark.parametrize("surrogate", [FastSigmoid(10), ATan(2), Triangle(1)], ids=lambda s: s.kind)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cpu_gets_numba(surrogate: Surrogate, dtype: torch.dtype) -> None:
    assert choose_backend("auto", CPU, dtype, surrogate) is network_numba
    assert choose_backend("numba", CPU, dtype, surrogate) is network_numba
    assert choose_backend("torch", CPU, dtype, surrogate) is None


@pytest.mark.parametrize("surrogate", [Narrow(), Box(), lambda x: x], ids=["derived", "unknown kind", "function"])
def test_surrogates_that_no_kernel_knows_take_plain_pytorch(surrogate) -> None:
    assert choose_backend("auto", CPU, torch.float32, surrogate) is None
    with pytest.raises(ValueError, match=r"knows the surrogates of ss_lightning\.surrogate only"):
        choose_backend("numba", CPU, torch.float32, surrogate)


def test_what_numba_cannot_do_is_said() -> None:
    assert choose_backend("auto", CPU, torch.bfloat16, ATan()) is None
    with pytest.raises(ValueError, match=r"not in torch\.bfloat16; use backend='torch' or 'auto'"):
        choose_backend("numba", CPU, torch.bfloat16, ATan())
    with pytest.raises(ValueError, match="it runs on the CPU, and the tensors are on cuda"):
        choose_backend("numba", CUDA, torch.float32, ATan())


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown backend 'jax'; choose one of auto, torch, numba, triton"):
        choose_backend("jax", CPU, torch.float32, ATan())


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def broken(name: str):
        raise ImportError("no such library")

    monkeypatch.setattr(backends, "import_module", broken)
    backends.import_kernels.cache_clear()
    yield
    backends.import_kernels.cache_clear()


@pytest.mark.usefixtures("no_triton")
def test_without_triton_a_gpu_gets_plain_pytorch_and_one_warning() -> None:
    with pytest.warns(RuntimeWarning, match="Triton cannot be imported .ImportError: no such library"):
        assert choose_backend("auto", CUDA, torch.float32, ATan()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend("auto", CUDA, torch.float32, ATan()) is None
        with pytest.raises(ValueError, match="the triton backend cannot be used: Triton cannot be imported"):
            choose_backend("triton", CUDA, torch.float32, ATan())


@pytest.mark.usefixtures("no_triton")
def test_without_numba_the_installation_is_broken() -> None:
    """A requirement: no slower path hides that it is missing."""
    with pytest.raises(ImportError, match="no such library"):
        choose_backend("auto", CPU, torch.float32, ATan())


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton imports, and a launch raises what it raises where there is no C compiler."""
    pytest.importorskip("triton")
    from ss_lightning.functional.kernels import common_triton

    def broken(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(common_triton, "launch_probe", broken)
    backends.can_launch.cache_clear()
    yield
    backends.can_launch.cache_clear()


@pytest.mark.usefixtures("no_launch")
@pytest.mark.parametrize("work", ["network", "spikes", "scan"])
def test_where_triton_cannot_launch_a_gpu_gets_plain_pytorch_and_one_warning(work: str) -> None:
    with pytest.warns(
        RuntimeWarning, match="Triton cannot launch a kernel on cuda .RuntimeError: Failed to find C compi"
    ):
        assert choose_backend("auto", CUDA, torch.float32, ATan(), work=work) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend("auto", CUDA, torch.float32, ATan(), work=work) is None
        with pytest.raises(ValueError, match="triton backend cannot be used: Triton cannot launch a kernel"):
            choose_backend("triton", CUDA, torch.float32, ATan(), work=work)


@pytest.mark.usefixtures("no_launch")
def test_results_are_those_of_plain_pytorch_where_triton_cannot_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for a card whose kernels cannot be launched."""
    from ss_lightning.functional.kernels import common_triton

    monkeypatch.setattr(backends, "OF_DEVICE", {"cpu": "triton"})
    monkeypatch.setattr(common_triton, "INTERPRETED", True)
    current = torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="Triton cannot launch") as record:
        spikes, membrane = single_spike(current, 0.9), leaky_scan(current, 0.9)
    assert len(record) == 1
    assert torch.equal(spikes, single_spike(current, 0.9, backend="torch"))
    assert torch.equal(membrane, leaky_scan(current, 0.9, backend="torch"))
    assert 0 < spikes.sum() < spikes[0].numel()
