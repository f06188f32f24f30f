"""A network of the project's own: `model: {kind: python, network: models/gru.py:Gru}`.

Its code runs where a recipe of the project is trained, and from what the recipe read of the file. A
bundle holds weights, a graph, and the digest of the file; nothing that forecasts runs the file.
Shapes as in `feastrain.models.encoder`, with B rows of a batch for N; Q quantiles.
"""

from __future__ import annotations

import logging
import sys
import warnings
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from feastrain.errors import RecipeError, UsageError
from feastrain.models import mlp, tft

if TYPE_CHECKING:
    import onnx

    from feastrain.models.batches import Batch
    from feastrain.models.encoder import Encoder
    from feastrain.models.windows import WindowBatch
    from feastrain.recipe import PythonModel

OPSET = 20
TOLERANCE = 1e-3
"""How far the graph may be off, in units of the row: what single precision adds up to."""
LONGEST = 300
"""Letters of an error of the project's code that are told."""
NOT_GIVEN = ("unit_B",)
"""What a batch has in training alone: a forecast must not depend on it."""


def architecture(model: PythonModel, encoder: Encoder) -> dict[str, Any]:
    """Return everything the network is made from but its code, as plain JSON values."""
    sizes = tft.sizes(encoder, model.context) if model.context else mlp.sizes(encoder)
    return {
        "kind": "python",
        "network": model.network,
        "sha256": sha256((model.source or "").encode()).hexdigest(),
        "options": model.options,
        **sizes,
        "quantiles": list(model.quantiles),
    }


def make(model: PythonModel | None, architecture: dict[str, Any]) -> nn.Module:
    """Run the file as the recipe read it, and make a network of its class with fresh weights.

    Raises:
        UsageError: there is no recipe, but a bundle.
        RecipeError: the class is not there, is no network, or cannot be made.
    """
    where, _, name = str(architecture["network"]).rpartition(":")
    if model is None or model.source is None:
        message = (
            f"{architecture['network']} is code of a project, which is run only where the project "
            "trains it; train it there again"
        )
        raise UsageError(message)
    about_code = ("kind", "network", "sha256", "options")
    sizes = {key: value for key, value in architecture.items() if key not in about_code}
    try:
        code = ModuleType(f"feastrain_network_{architecture['sha256']}")
        sys.modules[code.__name__] = code  # where dataclasses look their annotations up
        exec(compile(model.source, where, "exec"), vars(code))  # noqa: S102 - the recipe's own
        kind = getattr(code, name, None)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return kind(**sizes, **architecture["options"])
    except Exception as error:
        message = f"{where}: {name} cannot be made: {_told(error)}"
        raise RecipeError(message) from error
    found = "is not there" if kind is None else "is no torch.nn.Module"
    message = f"{where}: {name} {found}; the recipe's model.network names it"
    raise RecipeError(message)


def check(module: nn.Module, architecture: dict[str, Any], batch: Batch | WindowBatch) -> None:
    """Have the network answer a batch and learn from it before it is trained.

    Raises:
        RecipeError: it fails, answers another shape or quantiles that cross, or has weights that
            play no part in the answer.
    """
    name = architecture["network"]
    shape = (len(batch.unit_B), architecture["horizon"], len(architecture["quantiles"]))
    try:
        answer = module(SimpleNamespace(**_read(batch)))
    except Exception as error:
        message = f"{name} fails on a batch: {_told(error)}"
        raise RecipeError(message) from error
    fault = _fault(answer, shape)
    if fault is None:
        answer.sum().backward()
        idle = [of for of, weight in module.named_parameters() if weight.grad is None]
        if idle:
            fault = f"has weights that play no part in its answer ({idle[0]}); remove them"
    if fault is not None:
        message = f"{name} {fault}"
        raise RecipeError(message)
    module.zero_grad()


def as_onnx(module: nn.Module, architecture: dict[str, Any], batches: list[Any]) -> bytes:
    """Trace the network into an ONNX file that reads the arrays of `feastrain.models.inputs`.

    Args:
        module: with its weights.
        architecture: of the network.
        batches: the first is traced, and the graph must say of each what the network does.

    Raises:
        RecipeError: it cannot be traced, or the graph says something else.
        UsageError: a package is not installed.
    """
    name, module = architecture["network"], module.eval()
    given = _given(batches[0])
    rows = torch.export.Dim("rows", min=1)
    # It warns of packages that no network of ours needs.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            traced = torch.onnx.export(
                _ByPosition(module, tuple(given)),
                tuple(given.values()),
                input_names=list(given),
                output_names=["quantile_BHQ"],
                dynamic_shapes=(({0: rows},) * len(given),),
                opset_version=OPSET,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install 'feastrain[train]'"
        raise UsageError(message) from error
    except Exception as error:
        message = f"{name} cannot be written as an ONNX graph: {_told(_cause(error))}"
        raise RecipeError(message) from error
    assert traced is not None
    graph = traced.model_proto
    _forget_where_it_was_made(graph)
    content = bytes(graph.SerializeToString(deterministic=True))
    _require_the_same(module, content, name, batches)
    return content


class _ByPosition(nn.Module):
    """The network with the tensors of a batch as its arguments."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self._names = module, names

    def forward(self, *tensors: Tensor) -> Any:
        """Return what the network says of a batch."""
        return self.module(SimpleNamespace(**dict(zip(self._names, tensors, strict=True))))


def _read(batch: Batch | WindowBatch) -> dict[str, Tensor]:
    """Return what a forecast may read of a batch."""
    return {name: tensor for name, tensor in vars(batch).items() if name not in NOT_GIVEN}


def _given(batch: Batch | WindowBatch) -> dict[str, Tensor]:
    """Return it as a graph reads it, with 64-bit codes."""
    return {
        name: tensor.long() if "category" in name else tensor
        for name, tensor in _read(batch).items()
    }


def _fault(answer: Any, shape: tuple[int, ...]) -> str | None:
    if not isinstance(answer, Tensor) or tuple(answer.shape) != shape:
        found = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        return f"answers {found}, not {list(shape)}: rows, horizon, quantiles"
    if not answer.requires_grad:
        return "answers what depends on no weight; there is nothing to train"
    if bool((answer.diff(dim=-1) < 0).any()):
        return "answers quantiles that cross; feastrain.models.mlp.increasing keeps them apart"
    return None


def _require_the_same(module: nn.Module, content: bytes, name: str, batches: list[Any]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in batches:
        given = _given(batch)
        with torch.no_grad():
            expected = module(SimpleNamespace(**given)).numpy()
        arrays = {of: tensor.numpy() for of, tensor in given.items()}
        (actual,) = session.run(None, arrays)
        alike = expected.shape == actual.shape and np.allclose(
            expected, actual, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
        )
        if not alike:
            message = (
                f"{name} answers otherwise as an ONNX graph than in PyTorch, for {len(expected)} "
                "rows: look for what depends on the number of rows, on values, or on chance"
            )
            raise RecipeError(message)


def _forget_where_it_was_made(graph: onnx.ModelProto) -> None:
    """Drop notes of the trace: paths of this machine, that equal networks would differ in."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    graph.ClearField("metadata_props")


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _told(error: BaseException) -> str:
    """Return the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'it says no more'}"[:LONGEST]
