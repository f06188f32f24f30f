"""A trained network written as an ONNX graph, for a runtime that needs no torch.

The graphs are drawn from the weights, operator by operator, rather than exported: that takes
milliseconds, needs no second package to trace the module, gives the same bytes every time, and
batches what the module does one variable at a time so that caches hold it in training. Tests hold
graph and module together. Shapes as in `feastrain.models.mlp` and `feastrain.models.tft`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Weights = dict[str, Floats]

OPSET, IR_VERSION = 20, 10
"""Old enough for any ONNX Runtime from 1.18 on, which is of 2024."""
EPSILON = 1e-5
"""Of a layer norm, as PyTorch has it."""


def as_onnx(architecture: dict[str, Any], weights: Weights) -> bytes:
    """Return the network as an ONNX file; equal weights give equal bytes.

    It reads the arrays of `feastrain.models.inputs` and answers `quantile_BHQ`, quantiles in units
    of the row.

    Args:
        architecture: of the network, as the bundle holds it.
        weights: the module's, by the names of its state.
    """
    graph = _Graph(weights)
    looks_back = architecture["kind"] == "tft"
    out = _Tft(graph, architecture).draw() if looks_back else _draw_mlp(graph)
    middle, count = architecture["quantiles"].index(0.5), len(architecture["quantiles"])
    graph.op("Identity", graph.increasing(out, middle, count), name="quantile_BHQ")
    return graph.file(TFT_INPUTS if looks_back else MLP_INPUTS, "quantile_BHQ")


class _Graph:
    """Nodes and constants in the making; a value is its name."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.names = frozenset(weights)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add an operator and return its output."""
        name = name or f"{kind}-{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator and return its outputs."""
        name = f"{kind}-{len(self._nodes)}"
        names = [f"{name}-{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, name, **attributes))
        return names

    def constant(self, values: Any, kind: type[np.generic] = np.float32) -> str:
        """Add a constant."""
        name = f"constant-{len(self._constants)}"
        array = np.asarray(values, dtype=kind, order="C")
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def file(self, inputs: Sequence[str], output: str) -> bytes:
        """Return the ONNX file; the letters that end a name are its dimensions."""
        described = [
            helper.make_tensor_value_info(
                name,
                TensorProto.INT64 if "category" in name else TensorProto.FLOAT,
                tuple(name.rpartition("_")[2]),
            )
            for name in (*inputs, output)
        ]
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "network", described[:-1], described[-1:], constants)
        opset = helper.make_opsetid("", OPSET)
        about = {"ir_version": IR_VERSION, "producer_name": "feastrain"}
        model = helper.make_model(graph, opset_imports=[opset], **about)
        return bytes(model.SerializeToString(deterministic=True))

    # Weights ---------------------------------------------------------------------------------

    def weight(self, name: str) -> Floats:
        """Return the module's weight."""
        return self._weights[name]

    def listed(self, prefix: str) -> list[str]:
        """Return the prefixes of the layers in a list of them."""
        count = sum(name.startswith(f"{prefix}.") for name in self._weights)
        places = (f"{prefix}.{place}" for place in range(count))
        return [place for place in places if f"{place}.weight" in self.names]

    # Layers ----------------------------------------------------------------------------------

    def times(self, given: str, weight_XY: Floats) -> str:
        """Return [..., Y] the product with a constant."""
        return self.op("MatMul", given, self.constant(weight_XY))

    def linear(self, given: str, prefix: str) -> str:
        """Return what a linear layer makes of [..., X]."""
        product, bias = self.times(given, self.weight(f"{prefix}.weight").T), f"{prefix}.bias"
        if bias not in self.names:
            return product
        return self.op("Add", product, self.constant(self.weight(bias)))

    def norm(self, given: str, prefix: str) -> str:
        """Return what a layer norm makes of [..., W]."""
        scale, bias = (self.constant(self.weight(f"{prefix}.{of}")) for of in ("weight", "bias"))
        return self.op("LayerNormalization", given, scale, bias, axis=-1, epsilon=EPSILON)

    def silu(self, given: str) -> str:
        """Return x sigmoid(x)."""
        return self.op("Mul", given, self.op("Sigmoid", given))

    def gated(self, given: str, weight_XG: Floats, bias_G: Floats) -> str:
        """Return the gated linear unit [..., Y] of [..., X]; G = 2 Y."""
        halves = zip(np.split(weight_XG, 2, -1), np.split(bias_G, 2, -1), strict=True)
        said, opened = (
            self.op("Add", self.times(given, weight_XY), self.constant(bias_Y))
            for weight_XY, bias_Y in halves
        )
        return self.op("Mul", said, self.op("Sigmoid", opened))

    def words(self, codes: str, prefix: str) -> list[str]:
        """Return [..., W] the embedding of each column of codes."""
        return [
            self.op("Gather", self.constant(self.weight(f"{layer}.weight")), code)
            for layer, code in zip(
                self.listed(prefix), self.columns(codes, len(self.listed(prefix))), strict=True
            )
        ]

    def columns(self, given: str, count: int) -> list[str]:
        """Return [...] each column of [..., C]."""
        places = (self.constant(place, np.int64) for place in range(count))
        return [self.op("Gather", given, place, axis=-1) for place in places]

    def beside(self, *parts: str, axis: int = -1) -> str:
        """Return the parts side by side."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def unsqueeze(self, given: str, *axes: int) -> str:
        """Return it with more axes of one."""
        return self.op("Unsqueeze", given, self.constant(axes, np.int64))

    def reshape(self, given: str, *shape: int) -> str:
        """Return it in another shape; 0 keeps a dimension, -1 takes what is left."""
        return self.op("Reshape", given, self.constant(shape, np.int64))

    def pad(self, given: str, more: int, rank: int, value: float = 0) -> str:
        """Return it with `more` constant places at the end of its last axis."""
        widths = self.constant([0] * (2 * rank - 1) + [more], np.int64)
        return self.op("Pad", given, widths, self.constant(value))

    def part(self, given: str, axis: int, start: int, end: int = 2**31) -> str:
        """Return places of an axis; a negative start counts from the end."""
        bounds = (self.constant([number], np.int64) for number in (start, end, axis))
        return self.op("Slice", given, *bounds)

    def increasing(self, raw: str, middle: int, count: int) -> str:
        """Turn free numbers into quantiles that cannot cross: the median, and positive gaps."""
        median = self.part(raw, 2, middle, middle + 1)
        parts = [median]
        if middle:
            gaps = self.op("Softplus", self.part(raw, 2, 0, middle))
            below = self.op("CumSum", gaps, self.constant(2, np.int64), reverse=1)
            parts = [self.op("Sub", median, below), *parts]
        if middle + 1 < count:
            gaps = self.op("Softplus", self.part(raw, 2, middle + 1))
            above = self.op("CumSum", gaps, self.constant(2, np.int64))
            parts.append(self.op("Add", median, above))
        return self.beside(*parts)


MLP_INPUTS = ("row_BF", "category_BC", "step_BHS", "known_BHK", "known_category_BHD")


def _draw_mlp(graph: _Graph) -> str:
    """Draw `MLP`, and return [B, H, Q] before quantiles are kept from crossing."""
    row, category, step, known, known_category = MLP_INPUTS
    row_BX = graph.beside(row, *graph.words(category, "row_embeddings"))
    step_BHX = graph.beside(step, known, *graph.words(known_category, "known_embeddings"))
    # What the embedding of the step adds to the first layer is the same for every row.
    step_HE, weight_WX = graph.weight("step_embedding.weight"), graph.weight("step_layer.weight")
    width = weight_WX.shape[1] - step_HE.shape[1]
    of_step_HW = graph.constant(step_HE @ weight_WX[:, width:].T)
    of_row = graph.unsqueeze(graph.linear(row_BX, "row_layer"), 1)
    given = graph.op("Add", graph.times(step_BHX, weight_WX[:, :width].T), of_step_HW)
    hidden = graph.silu(graph.norm(graph.op("Add", of_row, given), "norm"))
    for layer in graph.listed("layers"):
        hidden = graph.silu(graph.linear(hidden, layer))
    row_path = graph.unsqueeze(graph.linear(row, "row_path"), 1)
    path = graph.op("Add", row_path, graph.linear(step, "step_path"))
    return graph.op("Add", graph.linear(hidden, "head"), path)


TFT_INPUTS = (
    "static_BF",
    "category_BC",
    "past_BLO",
    "past_known_BLK",
    "past_category_BLD",
    "valid_BL",
    "step_BHS",
    "known_BHK",
    "known_category_BHD",
)


class _Tft:
    """Draws `TFT`, whose parts have the names that they have there."""

    def __init__(self, graph: _Graph, architecture: dict[str, Any]) -> None:
        self._graph = graph
        self._width, self._heads = architecture["width"], architecture["heads"]
        self._context, self._horizon = architecture["context"], architecture["horizon"]

    def draw(self) -> str:
        """Return [B, H, Q] before quantiles are kept from crossing."""
        graph = self._graph
        static, category, past, past_known, past_category, valid, step, known, coming = TFT_INPUTS
        static_B1W = self._select(
            "static", graph.unsqueeze(static, 1), graph.unsqueeze(category, 1), None
        )
        about = {
            name: self._residual(f"contexts.{name}", static_B1W, None)
            for name in ("selection", "enrichment", "state", "cell")
        }
        seen = graph.beside(past, past_known)
        past_BLW = self._select("past", seen, past_category, about["selection"])
        past_BLW = graph.op("Mul", past_BLW, graph.unsqueeze(valid, 2))
        ahead = graph.beside(known, step)
        future_BHW = self._select("future", ahead, coming, about["selection"])
        states = [graph.op("Transpose", about[of], perm=(1, 0, 2)) for of in ("state", "cell")]
        read_BLW, *states = self._recur("encoder", past_BLW, *states)
        told_BHW, *_ = self._recur("decoder", future_BHW, *states)
        local_BTW = self._skip(
            "sequence_gate",
            graph.beside(read_BLW, told_BHW, axis=1),
            graph.beside(past_BLW, future_BHW, axis=1),
        )
        enriched_BTW = self._residual("enrichment", local_BTW, about["enrichment"])
        attended_BHW = self._attend(enriched_BTW, valid)
        attended_BHW = self._skip("attention_gate", attended_BHW, self._ahead(enriched_BTW))
        deep_BHW = self._residual("position_wise", attended_BHW, None)
        return graph.linear(self._skip("output_gate", deep_BHW, self._ahead(local_BTW)), "head")

    def _ahead(self, given_BTX: str) -> str:
        return self._graph.part(given_BTX, 1, -self._horizon)

    def _residual(self, prefix: str, given_BTX: str, context_B1W: str | None) -> str:
        """Draw `GatedResidual`."""
        graph = self._graph
        inner = graph.linear(given_BTX, f"{prefix}.first")
        if context_B1W is not None:
            inner = graph.op("Add", inner, graph.linear(context_B1W, f"{prefix}.about"))
        gated = self._gate(prefix, graph.op("Elu", inner))
        same = f"{prefix}.skip.weight" not in graph.names
        skip = given_BTX if same else graph.linear(given_BTX, f"{prefix}.skip")
        return graph.norm(graph.op("Add", skip, gated), f"{prefix}.norm")

    def _skip(self, prefix: str, given_BTW: str, skip_BTW: str) -> str:
        """Draw `GatedSkip`."""
        gated = self._gate(prefix, given_BTW)
        return self._graph.norm(self._graph.op("Add", skip_BTW, gated), f"{prefix}.norm")

    def _gate(self, prefix: str, given: str) -> str:
        weight, bias = (self._graph.weight(f"{prefix}.gate.{of}") for of in ("weight", "bias"))
        return self._graph.gated(given, weight.T, bias)

    def _select(self, prefix: str, number_BTF: str, code_BTD: str, context_B1W: str | None) -> str:
        """Draw `VariableSelection`, with all variables in one product."""
        graph = self._graph
        words = graph.words(code_BTD, f"{prefix}.embeddings")
        missing = graph.op("IsNaN", number_BTF)
        number_BTF = graph.op("Where", missing, graph.constant(0), number_BTF)
        absent_BTF = graph.op("Cast", missing, to=TensorProto.FLOAT)
        every = graph.beside(number_BTF, absent_BTF, *words)
        weight_BTV = graph.op("Softmax", self._residual(f"{prefix}.weights", every, context_B1W))
        inner_VMW, skip_VMW = self._first(prefix, number_BTF, absent_BTF, words)
        gate_VWG, bias_VG = graph.weight(f"{prefix}.gate"), graph.weight(f"{prefix}.gate_bias")
        said_VMW = graph.op("Add", graph.gated(inner_VMW, gate_VWG, bias_VG[:, None]), skip_VMW)
        scale_VW, bias_VW = graph.weight(f"{prefix}.norm"), graph.weight(f"{prefix}.norm_bias")
        one_W = graph.constant(np.ones(self._width))
        said_VMW = graph.op("LayerNormalization", said_VMW, one_W, axis=-1, epsilon=EPSILON)
        said_VMW = graph.op("Mul", said_VMW, graph.constant(scale_VW[:, None]))
        weight_MV = graph.reshape(weight_BTV, -1, len(scale_VW))
        weight_VM1 = graph.unsqueeze(graph.op("Transpose", weight_MV, perm=(1, 0)), 2)
        first = graph.constant([0], np.int64)
        weighed_VMW = graph.op("Mul", said_VMW, weight_VM1)
        chosen_MW = graph.op("ReduceSum", weighed_VMW, first, keepdims=0)
        chosen_MW = graph.op("Add", chosen_MW, graph.times(weight_MV, bias_VW))
        periods = {"static": 1, "past": self._context, "future": self._horizon}[prefix]
        return graph.reshape(chosen_MW, -1, periods, self._width)

    def _first(
        self, prefix: str, number_BTF: str, absent_BTF: str, words: list[str]
    ) -> tuple[str, str]:
        """Return [V, M, W] of every variable: its first product, bent, and its skip."""
        graph = self._graph
        inner, skip = [], []
        if numbers := len(graph.weight(f"{prefix}.number_in")):
            flat = [graph.reshape(given, -1, numbers, 1) for given in (number_BTF, absent_BTF)]
            given_FM2 = graph.op("Transpose", graph.beside(*flat), perm=(1, 0, 2))
            given_FM3 = graph.pad(given_FM2, 1, rank=3, value=1)
            inner.append(graph.times(given_FM3, graph.weight(f"{prefix}.number_in")))
            skip.append(graph.times(given_FM3, graph.weight(f"{prefix}.number_skip")))
        if words:
            flat = [graph.reshape(word, 1, -1, self._width) for word in words]
            word_DMW = graph.beside(*flat, axis=0)
            inner.append(graph.times(word_DMW, graph.weight(f"{prefix}.category_in")))
            skip.append(word_DMW)
        return graph.op("Elu", graph.beside(*inner, axis=0)), graph.beside(*skip, axis=0)

    def _recur(self, prefix: str, given_BTW: str, *state_1BW: str) -> list[str]:
        """Draw an LSTM: [B, T, W], and its last state and cell [1, B, W]."""
        graph = self._graph

        def ordered(name: str) -> Floats:
            enter, forget, cell, leave = np.split(graph.weight(f"{prefix}.{name}_l0"), 4)
            return np.concatenate([enter, leave, forget, cell])

        given = graph.op("Transpose", given_BTW, perm=(1, 0, 2))
        weights = [graph.constant(ordered(name)[None]) for name in ("weight_ih", "weight_hh")]
        bias = np.concatenate([ordered("bias_ih"), ordered("bias_hh")])[None]
        all_T1BW, *last = graph.ops(
            "LSTM",
            3,
            given,
            *weights,
            graph.constant(bias),
            "",
            *state_1BW,
            hidden_size=self._width,
        )
        squeezed = graph.op("Squeeze", all_T1BW, graph.constant([1], np.int64))
        return [graph.op("Transpose", squeezed, perm=(1, 0, 2)), *last]

    def _attend(self, given_BTW: str, valid_BL: str) -> str:
        """Draw `InterpretableAttention`: [B, H, W]."""
        graph, heads, size = self._graph, self._heads, self._width // self._heads
        query = graph.linear(self._ahead(given_BTW), "attention.query")
        query = graph.op("Mul", query, graph.constant(size**-0.5))
        query_BnHs = graph.op(
            "Transpose", graph.reshape(query, 0, 0, heads, size), perm=(0, 2, 1, 3)
        )
        key = graph.reshape(graph.linear(given_BTW, "attention.key"), 0, 0, heads, size)
        score_BnHT = graph.op("MatMul", query_BnHs, graph.op("Transpose", key, perm=(0, 2, 3, 1)))
        # What a step does not see: places without a row, and the steps after it.
        none, unseen = graph.constant(0), graph.constant(-np.inf)
        past_BL = graph.op("Where", graph.op("Cast", valid_BL, to=TensorProto.BOOL), none, unseen)
        past_BT = graph.pad(past_BL, self._horizon, rank=2)
        later_HH = np.triu(np.full((self._horizon, self._horizon), -np.inf, np.float32), 1)
        later_HT = np.pad(later_HH, ((0, 0), (self._context, 0)))
        hidden = graph.op("Add", graph.unsqueeze(past_BT, 1, 2), graph.constant(later_HT))
        shown_BnHT = graph.op("Softmax", graph.op("Add", score_BnHT, hidden))
        first = graph.constant([1], np.int64)
        attention_BHT = graph.op("ReduceMean", shown_BnHT, first, keepdims=0)
        value_BTs = graph.linear(given_BTW, "attention.value")
        return graph.linear(graph.op("MatMul", attention_BHT, value_BTs), "attention.out")
