"""Reading the NIR graphs that this package wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn

from ss_lightning._version import __version__
from ss_lightning.errors import DataError, UsageError
from ss_lightning.export.nir_export import make_graph
from ss_lightning.export.nir_layers import KEY, NEURONS, PLAIN, array, fires_once, import_nir, leak_of
from ss_lightning.networks import MLP, ConvNet
from ss_lightning.renamed import with_new_names
from ss_lightning.surrogate import make_surrogate


def from_nir(path: str | os.PathLike[str]) -> nn.Module:
    """Read a network that :func:`to_nir` wrote: the same class with the same parameters, bit for bit.

    A neuron that fires once fires once again; the extra connections of the self-inhibiting form are left out, for it
    does not need them. The network is in evaluation mode. Files of other tools are refused: a plain ``LIF`` does not
    say how often it may fire.

    Raises:
        UsageError: ``nir`` is not installed, or another tool wrote the file.
        DataError: the file is missing or broken, or was changed so that it contradicts its metadata.
    """
    nir = import_nir()
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        graph = nir.read(path)
    except Exception as error:  # h5py and nir raise all sorts
        raise DataError(f"{path} is not a NIR file that can be read ({type(error).__name__}: {error})") from error
    if KEY not in graph.metadata:
        raise UsageError(
            f"{path} was not written by ss_lightning.export.to_nir: its LIF neurons may fire any number of times. "
            "Read it with snntorch.import_nir.import_from_nir"
        )
    try:
        about = json.loads(graph.metadata[KEY])
        tensors = _tensors(graph.nodes)
        network = _build(about, tensors)
        network.to(next(value.dtype for name, value in tensors.items() if name.endswith("weight")))
        missing, unknown = network.load_state_dict(tensors, strict=False)
        wanted = dict(network.named_parameters())
        if unknown or any(name in wanted for name in missing):
            raise ValueError(f"parameters do not fit the network: unknown {unknown}, missing {missing}")
        if "reader" in graph.metadata:
            _check_nodes(graph, network, about)
        else:
            _check_neurons(graph, network)
    except (KeyError, TypeError, ValueError, RuntimeError, StopIteration) as error:
        raise DataError(
            f"{path} was changed after it was written, or written by another version of ss_lightning than "
            f"{__version__}: {error}. Export the checkpoint again"
        ) from error
    return network.eval()  # else dropout, which a file keeps, makes its answers random


def _tensors(nodes: dict[str, Any]) -> dict[str, Tensor]:
    """Parameters by their name in the network; weights that were split over several nodes are joined."""
    parts: dict[str, dict[int, Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for node in nodes.values():
        name = node.metadata.get("module")
        if name is None:
            continue
        for key in ("alpha", "beta", "threshold"):
            if key in node.metadata:
                tensors[f"{name}.{key}"] = torch.from_numpy(np.array(node.metadata[key]))
        if hasattr(node, "weight"):
            weight = node.metadata.get("weight", node.weight)  # as it was before it was scaled
            parts.setdefault(name, {})[int(node.metadata["part"])] = torch.from_numpy(np.array(weight))
        if hasattr(node, "bias") and node.metadata.get("bias", True):
            tensors[f"{name}.bias"] = torch.from_numpy(np.array(node.metadata.get("exact_bias", node.bias)))
    for name, found in parts.items():
        tensors[f"{name}.weight"] = torch.cat([found[part] for part in sorted(found)], dim=1)
    return tensors


def _build(about: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The network with parameters of the right shapes."""
    if about["network"] in ("MLP", "ConvNet"):
        return {"MLP": MLP, "ConvNet": ConvNet}[about["network"]](**with_new_names(about["arguments"]))
    modules: list[nn.Module] = []
    for index, layer in enumerate(about["layers"]):
        arguments = dict(layer["arguments"])
        if layer["class"] in PLAIN:
            # JSON knows no tuples, and pooling wants them.
            arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
            modules.append(PLAIN[layer["class"]][0](**arguments))
            continue
        sequence, surrogate = arguments.pop("sequence"), arguments.pop("surrogate", None)
        arguments = {key: value for key, value in arguments.items() if value is not None}
        if surrogate is not None:
            arguments["spike_grad"] = make_surrogate(*surrogate)
        if layer["class"] != "LeakyReadout":
            arguments["threshold"] = torch.ones_like(tensors[f"{index}.threshold"])
        if f"{index}.alpha" in tensors:
            arguments["alpha"] = torch.ones_like(tensors[f"{index}.alpha"])
        beta = torch.ones_like(tensors[f"{index}.beta"])
        neuron = NEURONS[layer["class"]](beta=beta, **arguments)
        if sequence is not None:
            neuron.sequence = sequence
        modules.append(neuron)
    return nn.Sequential(*modules)


def _check_nodes(graph: Any, network: nn.Module, about: dict[str, Any]) -> None:
    """What other readers see must be what the network that was read would be written as."""
    shape = tuple(int(size) for size in graph.nodes["input"].input_type["input"])
    again = make_graph(
        network,
        sample_shape=shape if about["network"] == "Sequential" else None,
        dt=float(graph.metadata["dt"]),
        inhibition=float(graph.metadata["inhibition"]) if "inhibition" in graph.metadata else None,
        reader=graph.metadata["reader"],
    )
    if set(again.nodes) != set(graph.nodes) or set(again.edges) != set(graph.edges):
        raise ValueError("its nodes and edges are not those of the network in its metadata")
    for name, node in graph.nodes.items():
        expected = again.nodes[name]
        if type(node) is not type(expected):
            raise ValueError(f"{name} is a {type(node).__name__}, the network has a {type(expected).__name__}")
        for found, wanted in ((vars(node), vars(expected)), (node.metadata, expected.metadata)):
            for key, value in wanted.items():
                if key not in ("metadata", "input_type", "output_type") and not _agree(value, found.get(key)):
                    raise ValueError(f"{key} of {name} contradicts its metadata")


def _agree(a: Any, b: Any) -> bool:
    """Equal, and numbers up to how two processors round a logarithm."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    return np.allclose(a, b, rtol=1e-6, atol=0) if a.dtype.kind == b.dtype.kind == "f" else bool((a == b).all())


def _check_neurons(graph: Any, network: nn.Module) -> None:
    """The same for files of version 0.1.0 and before, whose weights are not scaled: ``r = tau / dt``."""
    seen = set()
    for name, node in graph.nodes.items():
        if not hasattr(node, "tau"):
            continue
        neuron = cast(snn.Leaky, network.get_submodule(node.metadata["module"]))
        seen.add(neuron)
        if type(neuron).__name__ != node.metadata["neuron"]:
            raise ValueError(f"{name} is a {node.metadata['neuron']}, the network has a {type(neuron).__name__}")
        beta = neuron.beta.detach().clamp(0, 1).expand(node.tau.shape)
        tau = leak_of(beta, float(graph.metadata["dt"]), "snntorch").tau
        same = np.array_equal(tau, node.tau)
        if hasattr(node, "v_threshold"):
            same = same and np.array_equal(array(neuron.threshold.expand(node.tau.shape)), node.v_threshold)
            same = same and bool(node.metadata["fires_once"]) == fires_once(neuron)
        if not same:
            raise ValueError(f"tau, v_threshold or fires_once of {name} contradict its metadata")
    if seen != {module for module in network.modules() if isinstance(module, snn.Leaky)}:
        raise ValueError("a layer of neurons is missing")
