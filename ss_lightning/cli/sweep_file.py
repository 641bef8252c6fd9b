"""A Weights & Biases sweep file: which settings are tried, and what is searched by."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import yaml

from ss_lightning.errors import UsageError
from ss_lightning.runs.config_check import check_config, check_syntax

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_METHODS = ("grid", "random", "bayes")
_KEYS = (
    *("command", "description", "early_terminate", "entity", "method", "metric"),
    *("name", "parameters", "program", "project", "run_cap"),
)
_DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        path: the file.
        method: ``grid``, ``random`` or ``bayes``.
        metric: what is searched by, as it is logged.
        goal: ``maximize`` or ``minimize``.
        command: arguments of our command line, the parameters left out.
        space: possible values of each parameter.
        hyperband: ``min_iter`` or ``max_iter`` with ``s``, and ``eta``; empty for no early stopping.
        run_cap: number of trials that the file asks for.
    """

    path: Path
    method: str
    metric: str
    goal: Literal["maximize", "minimize"]
    command: list[str]
    space: dict[str, BaseDistribution]
    hyperband: dict[str, Any]
    run_cap: int | None


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file in the format of W&B.

    Raises:
        UsageError: it cannot be read, or asks for something that cannot be done here.
    """
    try:
        check_config(path)
        check_syntax(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the sweep file {path}: {error.strerror}") from error
    except UsageError:
        raise
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no sweep file: expected method, metric, parameters and command")
    for key in content:
        if key not in _KEYS:
            raise UsageError(f"{path}: unknown key {key}; known are {', '.join(_KEYS)}")
    method = content.get("method")
    if method not in _METHODS:
        raise UsageError(f"{path}: method is {method!r}; expected one of {', '.join(_METHODS)}")
    metric = content.get("metric") or {}
    if not isinstance(metric, dict) or "name" not in metric or metric.get("goal") not in ("maximize", "minimize"):
        raise UsageError(
            f"{path}: metric is {metric!r}; expected a name, such as val/accuracy, and a goal, maximize or minimize"
        )
    if unknown := sorted(map(str, metric.keys() - {"name", "goal"})):
        raise UsageError(f"{path}: metric: {unknown[0]} is not supported here; expected a name and a goal")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError(
            f"{path}: parameters are missing; expected names as in the config, such as optimizer.init_args.lr"
        )
    cap = content.get("run_cap")
    if cap is not None and not _is_count(cap):
        raise UsageError(f"{path}: run_cap is {cap!r}; expected a whole number of trials, 1 or more")
    return Sweep(
        path,
        method,
        metric["name"],
        metric["goal"],
        _our_arguments(path, content.get("command")),
        {str(name): _distribution(f"{path}: {name}", given) for name, given in parameters.items()},
        _hyperband(path, content.get("early_terminate")),
        cap,
    )


def _hyperband(path: Path, given: Any) -> dict[str, Any]:
    """When a trial is stopped early, as W&B writes it; empty if it never is."""
    if given is None:
        return {}
    if (
        not isinstance(given, dict)
        or given.get("type") != "hyperband"
        or not ("min_iter" in given or "max_iter" in given)
    ):
        raise UsageError(f"{path}: early_terminate needs type: hyperband, and min_iter or max_iter")
    found = {key: value for key, value in given.items() if key != "type"}
    if unknown := sorted(map(str, found.keys() - {"min_iter", "max_iter", "s", "eta"})):
        raise UsageError(
            f"{path}: early_terminate: {unknown[0]} is not supported here; known are min_iter, max_iter, s and eta"
        )
    for key, least in {"min_iter": 1, "max_iter": 1, "s": 1, "eta": 2}.items():
        if key in found and not _is_count(found[key], least):
            raise UsageError(f"{path}: early_terminate: {key} is {found[key]!r}; expected a whole number from {least}")
    return found


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _our_arguments(path: Path, command: Any) -> list[str]:
    """What follows ``python -m ss_lightning`` in the command of a sweep file."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "ss_lightning" not in words or words[words.index("ss_lightning") + 1 :][:1] != ["fit"] or "${args}" not in words:
        raise UsageError(
            f"{path}: the command is {command!r}; expected\n"
            "command: [${env}, python, -m, ss_lightning, fit, --config, FILE, ${args}]"
        )
    return [word for word in words[words.index("fit") :] if word != "${args}"]


def _distribution(where: str, given: Any) -> BaseDistribution:
    """Possible values of a parameter, from how W&B writes them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(given, dict) or "parameters" in given:
        raise UsageError(f"{where}: expected value, values, or min and max; nested names are written with dots")
    kind = given.get("distribution")
    if kind is not None and kind not in _DISTRIBUTIONS:
        raise UsageError(f"{where}: distribution is {kind}; expected one of {', '.join(_DISTRIBUTIONS)}")
    if unknown := sorted(map(str, given.keys() - {"distribution", "value", "values", "min", "max", "q"})):
        raise UsageError(f"{where}: {unknown[0]} is not supported here; expected value, values, or min and max (and q)")
    if "q" in given and kind != "q_uniform":
        raise UsageError(f"{where}: q needs distribution: q_uniform")
    if "value" in given:
        return CategoricalDistribution([_plain(given["value"])])
    if "values" in given:
        if not isinstance(given["values"], list) or not given["values"]:
            raise UsageError(f"{where}: values is {given['values']!r}; expected a list of one or more")
        # One that is written twice is tried once; 1, 1.0 and true are different words of the command line.
        return CategoricalDistribution(list({repr(value): _plain(value) for value in given["values"]}.values()))
    low, high = given.get("min"), given.get("max")
    if not _is_number(low) or not _is_number(high) or low > high:
        raise UsageError(f"{where}: expected value, values, or numbers min and max with min <= max, got {given}")
    if kind == "int_uniform" or (kind is None and isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high))
    if kind == "q_uniform":
        step = given.get("q", 1)
        if not _is_number(step) or step <= 0:
            raise UsageError(f"{where}: q is {step!r}; expected the distance of two values, above 0")
        return _multiples(where, low, high, step)
    if kind == "log_uniform_values" and low <= 0:
        raise UsageError(f"{where}: a logarithmic range must be above 0, got min {low}")
    return FloatDistribution(low, high, log=kind == "log_uniform_values")


def _multiples(where: str, low: float, high: float, step: float) -> BaseDistribution:
    """The multiples of ``step`` in a range, whole numbers where all three are, as W&B has them."""
    from optuna.distributions import FloatDistribution, IntDistribution

    # The ends may be multiples but for rounding: 0.3 of 0.1.
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if first > last:
        raise UsageError(f"{where}: no multiple of q, which is {step}, lies between min {low} and max {high}")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int):
        return IntDistribution(first * step, last * step, step=step)
    return FloatDistribution(float(f"{first * step:.12g}"), float(f"{last * step:.12g}"), step=step)


def _plain(value: Any) -> Any:
    """A value that Optuna can store: lists as the text that the command line reads, dates and the like as written."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def as_option(name: str, value: Any) -> str:
    """A parameter on the command line, written as W&B writes it; what is nothing is written as YAML does."""
    return f"--{name}={'null' if value is None else value}"


def named_values(distribution: BaseDistribution) -> list[Any]:
    """The values of a parameter that its file names: all of a list, or both ends of a range."""
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices else [distribution.low, distribution.high]  # type: ignore[attr-defined]


def grid_values(sweep: Sweep) -> dict[str, list[Any]]:
    """All values of every parameter.

    Raises:
        UsageError: one of them has no end of values.
    """
    from optuna.distributions import CategoricalDistribution

    values: dict[str, list[Any]] = {}
    for name, distribution in sweep.space.items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = list(distribution.choices)
        elif (step := distribution.step) is None:  # type: ignore[attr-defined]
            raise UsageError(f"{sweep.path}: {name}: a grid needs values, whole numbers or q_uniform")
        else:
            low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
            values[name] = [low + index * step for index in range(round((high - low) / step) + 1)]
    return values
