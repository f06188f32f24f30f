"""The Temporal Fusion Transformer (Lim et al. 2021, arXiv:1912.09363).

It reads the last L periods of observed and known-ahead features, the known-ahead and stepped
features of the next H periods and what does not change, and answers quantiles for every step.
What it selected and where it looked can be read off it (`explain`).

Two identities make it several times cheaper than a literal transcription, and change no function
that it can learn:

* A number's embedding is affine, and so is what a gated residual network does with it first.
  Their composition is one affine map from the number, never an embedding of it.
* Between the second product of a gated residual network and the products of its gate lies nothing
  but dropout. Drawn before them instead, it leaves one product.

Shapes: B rows, L look-back periods, H steps, V variables, W width, Q quantiles; the others as in
`feastrain.models.windows`. A number that is missing is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from feastrain.errors import RecipeError
from feastrain.models.mlp import increasing

if TYPE_CHECKING:
    from feastrain.models.encoder import Encoder
    from feastrain.models.windows import WindowBatch
    from feastrain.recipe import TFTModel

Kept = tuple[Tensor, Tensor]
"""What dropout keeps of each variable [V, B, 1, W], and of the network of weights [B, 1, W]."""
RUNS = 2
"""Into how many runs of periods the longer selection of variables is cut to be recomputed.

It is most of what a step keeps, and recomputed as one it would set the peak again. More runs
cost more time and save nothing: what is kept elsewhere then sets the peak.
"""


def sizes(encoder: Encoder, context: int) -> dict[str, Any]:
    """Return the sizes of what a network reads that looks back on `context` periods."""
    words = {name: len(values) + 1 for name, values in encoder.vocabularies.items()}
    return {
        "static_numbers": 1 + len(encoder.static_numbers),
        "static_vocabularies": [words[name] for name in encoder.row_categories],
        "observed_numbers": len(encoder.observed_numbers),
        "known_numbers": len(encoder.known),
        "step_numbers": len(encoder.stepped),
        "known_vocabularies": [words[name] for name in encoder.known_categories],
        "context": context,
        "horizon": encoder.columns.horizon,
    }


def architecture(model: TFTModel, encoder: Encoder) -> dict[str, Any]:
    """Return everything `TFT` is made from, as plain JSON values.

    Raises:
        RecipeError: nothing is known ahead.
    """
    if not (encoder.known or encoder.stepped or encoder.known_categories):
        message = (
            "a TFT reads something of every period ahead; give a view the role known_ahead, "
            "name a stepped feature, or choose kind: mlp"
        )
        raise RecipeError(message)
    return {
        "kind": "tft",
        **sizes(encoder, model.context),
        "width": model.hidden,
        "heads": model.heads,
        "dropout": model.dropout,
        "quantiles": list(model.quantiles),
    }


@dataclass(frozen=True)
class Explanation:
    """What the model weighed for B rows; each weight is a share of 1 along its last axis."""

    static_BV: Tensor
    """Of the static numbers, then the static categories."""
    past_BLV: Tensor
    """Of the observed and the known-ahead numbers, then the known-ahead categories."""
    future_BHV: Tensor
    """Of the known-ahead and the stepped numbers, then the known-ahead categories."""
    attention_BHT: Tensor
    """Of the L past and the H future periods, for each step; the mean over heads."""


@dataclass(frozen=True)
class Variables:
    """The names of what an `Explanation` weighs, in its order."""

    static: tuple[str, ...]
    past: tuple[str, ...]
    future: tuple[str, ...]


def variables(encoder: Encoder) -> Variables:
    """Name the variables of a TFT that reads by this encoder; `log_unit` is the row's own size."""
    static, observed, known, stepped = (
        tuple(number.name for number in numbers)
        for numbers in (
            (encoder.log_unit, *encoder.static_numbers),
            encoder.observed_numbers,
            encoder.known,
            encoder.stepped,
        )
    )
    return Variables(
        static=static + encoder.row_categories,
        past=observed + known + encoder.known_categories,
        future=known + stepped + encoder.known_categories,
    )


class TFT(nn.Module):
    """Windows in, [B, H, Q] quantiles in units of the row out."""

    def __init__(  # noqa: PLR0913 - the keys of a bundle's model.json
        self,
        *,
        static_numbers: int,
        static_vocabularies: list[int],
        observed_numbers: int,
        known_numbers: int,
        step_numbers: int,
        known_vocabularies: list[int],
        context: int,
        horizon: int,
        width: int,
        heads: int,
        dropout: float,
        quantiles: list[float],
        kind: str = "tft",
    ) -> None:
        super().__init__()
        assert kind == "tft"
        self.context, self.horizon = context, horizon
        self.middle = quantiles.index(0.5)
        self.recompute = False
        """Whether activations are computed again in the backward pass, not kept for it."""
        self.static = VariableSelection(static_numbers, static_vocabularies, width, dropout)
        past, future = observed_numbers + known_numbers, known_numbers + step_numbers
        about = {"context": width}
        self.past = VariableSelection(past, known_vocabularies, width, dropout, **about)
        self.future = VariableSelection(future, known_vocabularies, width, dropout, **about)
        self.contexts = nn.ModuleDict(
            {
                name: GatedResidual(width, width, width, dropout)
                for name in ("selection", "enrichment", "state", "cell")
            }
        )
        self.encoder = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.LSTM(width, width, batch_first=True)
        self.sequence_gate = GatedSkip(width, dropout)
        self.enrichment = GatedResidual(width, width, width, dropout, context=width)
        self.attention = InterpretableAttention(width, heads, dropout)
        self.attention_gate = GatedSkip(width, dropout)
        self.position_wise = GatedResidual(width, width, width, dropout)
        self.output_gate = GatedSkip(width, dropout)
        self.head = nn.Linear(width, len(quantiles))

    def forward(self, batch: WindowBatch) -> Tensor:
        """Return [B, H, Q] quantiles in units of the row, increasing along Q."""
        return self._run(batch)[0]

    def explain(self, batch: WindowBatch) -> Explanation:
        """Return what the forecasts of a batch rest on."""
        return self._run(batch)[1]

    def _run(self, batch: WindowBatch) -> tuple[Tensor, Explanation]:
        static_B1W, static_B1V = self.static(
            batch.static_BF.unsqueeze(1),
            batch.category_BC.unsqueeze(1),
            kept=self.static.masks(len(batch.static_BF), batch.static_BF.device),
        )
        about = {name: grn(static_B1W) for name, grn in self.contexts.items()}
        past_BLW, past_BLV = self._selected(
            self.past,
            torch.cat([batch.past_BLO, batch.past_known_BLK], dim=-1),
            batch.past_category_BLD,
            about["selection"],
        )
        future_BHW, future_BHV = self._selected(
            self.future,
            torch.cat([batch.known_BHK, batch.step_BHS], dim=-1),
            batch.known_category_BHD,
            about["selection"],
        )
        past_BLW = past_BLW * batch.valid_BL.unsqueeze(-1)
        state = (about["state"].transpose(0, 1), about["cell"].transpose(0, 1))
        # In single precision: not every processor has a recurrent layer in a lower one.
        with torch.autocast(past_BLW.device.type, enabled=False):
            start = tuple(part.float().contiguous() for part in state)
            read_BLW, state = self.encoder(past_BLW.float(), start)
            told_BHW, _ = self.decoder(future_BHW.float(), state)
        out_BHQ, attention_BHT = self._fuse(
            past_BLW, future_BHW, read_BLW, told_BHW, about["enrichment"], batch.valid_BL
        )
        explained = Explanation(static_B1V.squeeze(1), past_BLV, future_BHV, attention_BHT)
        return increasing(out_BHQ, self.middle), explained

    def _selected(
        self, select: VariableSelection, numbers: Tensor, codes: Tensor, context_B1W: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Select at T periods; to be recomputed a run at a time, where they are more than one."""
        kept = select.masks(len(numbers), numbers.device)
        size = -(-max(self.context, self.horizon) // RUNS)
        recompute = self.recompute and torch.is_grad_enabled() and numbers.shape[1] > size
        if not recompute:
            chosen_BTW, weight_BTV = select(numbers, codes, context_B1W, kept)
            return chosen_BTW, weight_BTV
        runs = zip(torch.split(numbers, size, 1), torch.split(codes, size, 1), strict=True)
        # Dropout has drawn: there is no random state to go back to.
        given = (context_B1W, kept)
        parts = [
            checkpoint(select, *run, *given, use_reentrant=False, preserve_rng_state=False)
            for run in runs
        ]
        chosen, weights = zip(*parts, strict=True)
        return torch.cat(chosen, dim=1), torch.cat(weights, dim=1)

    def _fuse(
        self,
        past_BLW: Tensor,
        future_BHW: Tensor,
        read_BLW: Tensor,
        told_BHW: Tensor,
        enrichment_B1W: Tensor,
        valid_BL: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return [B, H, Q] free numbers and the attention behind them."""
        local_BTW = self.sequence_gate(
            torch.cat([read_BLW, told_BHW], dim=1), torch.cat([past_BLW, future_BHW], dim=1)
        )
        enriched_BTW = self.enrichment(local_BTW, enrichment_B1W)
        horizon = self.horizon
        attended_BHW, attention_BHT = self.attention(enriched_BTW, valid_BL, horizon)
        attended_BHW = self.attention_gate(attended_BHW, enriched_BTW[:, -horizon:])
        deep_BHW = self.position_wise(attended_BHW)
        return self.head(self.output_gate(deep_BHW, local_BTW[:, -horizon:])), attention_BHT


class VariableSelection(nn.Module):
    """V variables at T periods become one vector, the sum of what each says times its weight."""

    def __init__(
        self,
        numbers: int,
        vocabularies: list[int],
        width: int,
        dropout: float,
        context: int | None = None,
    ) -> None:
        super().__init__()
        count = numbers + len(vocabularies)
        self.numbers, self.width, self.count, self.rate = numbers, width, count, dropout
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in vocabularies)
        # Of a number: what multiplies it, what stands for it when it is missing, and a constant.
        self.number_in = _uniform(numbers, 3, width, fan_in=1)
        self.number_skip = _uniform(numbers, 3, width, fan_in=1)
        self.category_in = _uniform(len(vocabularies), width, width, fan_in=width)
        self.gate = _uniform(count, width, 2 * width, fan_in=width)
        self.gate_bias = nn.Parameter(torch.zeros(count, 2 * width))
        self.norm = nn.Parameter(torch.ones(count, width))
        self.norm_bias = nn.Parameter(torch.zeros(count, width))
        inputs = 2 * numbers + width * len(vocabularies)
        self.weights = GatedResidual(inputs, width, count, dropout, context=context)

    def masks(self, rows: int, device: torch.device) -> Kept | None:
        """Draw what dropout keeps, for all periods of a row at once."""
        if not self.training or self.rate == 0:
            return None
        return (
            dropout_mask((self.count, rows, 1, self.width), self.rate, device),
            dropout_mask((rows, 1, self.width), self.rate, device),
        )

    def forward(
        self,
        number_BTF: Tensor,
        code_BTD: Tensor,
        context_B1W: Tensor | None = None,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return [B, T, W] and the weights [B, T, V]."""
        kept_VB1W, kept_B1W = kept or (None, None)
        missing_BTF = number_BTF.isnan()
        number_BTF = torch.where(missing_BTF, 0.0, number_BTF)
        absent_BTF = missing_BTF.to(number_BTF.dtype)
        words = [table(code_BTD[..., d]) for d, table in enumerate(self.embeddings)]
        weight_BTV = self.weights(
            torch.cat([number_BTF, absent_BTF, *words], dim=-1), context_B1W, kept_B1W
        ).softmax(-1)
        out_MW = weight_BTV.flatten(0, 1) @ self.norm_bias
        each = zip(
            self._inputs(number_BTF, absent_BTF, words),
            [None] * self.count if kept_VB1W is None else kept_VB1W.unbind(0),
            self.gate.unbind(0),
            self.gate_bias.unbind(0),
            self.norm.unbind(0),
            weight_BTV.flatten(0, 1).split(1, dim=-1),
            strict=True,
        )
        periods = number_BTF.shape[:2]
        # One variable at a time: what it touches then stays in the processor's cache.
        for one, kept_one, gate, gate_bias, norm, weight_M1 in each:
            inner_MW = functional.elu(one.given_MX @ one.first_XW, inplace=True)
            if kept_one is not None:
                inner_MW = (inner_MW.view(*periods, self.width) * kept_one).flatten(0, 1)
            gated_MW = gated(inner_MW, gate.t(), gate_bias)
            said_MW = (
                gated_MW + one.given_MX
                if one.skip_XW is None
                else torch.addmm(gated_MW, one.given_MX, one.skip_XW)
            )
            said_MW = functional.layer_norm(said_MW, (self.width,), norm)
            out_MW = torch.addcmul(out_MW, weight_M1, said_MW)
        return out_MW.view(*periods, self.width), weight_BTV

    def _inputs(self, number_BTF: Tensor, absent_BTF: Tensor, words: list[Tensor]) -> list[_Input]:
        """Return of every variable [M, X] and the maps [X, W] of its first product and its skip."""
        one_BTF = torch.ones_like(number_BTF)
        number_FMX = (
            torch.stack([number_BTF, absent_BTF, one_BTF], -1).flatten(0, 1).transpose(0, 1)
        )
        numbers = zip(
            number_FMX.contiguous().unbind(0),
            self.number_in.unbind(0),
            self.number_skip.unbind(0),
            strict=True,
        )
        categories = zip(words, self.category_in.unbind(0), strict=True)
        return [
            *(_Input(given, first, skip) for given, first, skip in numbers),
            *(_Input(word.flatten(0, 1), first, None) for word, first in categories),
        ]


@dataclass(frozen=True)
class _Input:
    """A variable as a gated residual network takes it, for M = B T rows."""

    given_MX: Tensor
    first_XW: Tensor
    skip_XW: Tensor | None
    """None where the variable is an embedding, which is its own skip."""


class GatedResidual(nn.Module):
    """A gated residual network: as much of a nonlinear step as its gate lets through."""

    def __init__(
        self, inputs: int, width: int, outputs: int, dropout: float, context: int | None = None
    ) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.about = nn.Linear(context, width, bias=False) if context else None
        self.dropout = StepDropout(dropout)
        self.gate = nn.Linear(width, 2 * outputs)
        self.skip = nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()
        self.norm = nn.LayerNorm(outputs)

    def forward(
        self,
        given_BTX: Tensor,
        context_B1W: Tensor | None = None,
        kept_B1W: Tensor | None = None,
    ) -> Tensor:
        """Return [B, T, outputs]; what dropout keeps is drawn here, unless it is given."""
        inner_BTW = self.first(given_BTX)
        if self.about is not None and context_B1W is not None:
            inner_BTW = inner_BTW + self.about(context_B1W)
        inner_BTW = functional.elu(inner_BTW)
        inner_BTW = self.dropout(inner_BTW) if kept_B1W is None else inner_BTW * kept_B1W
        gated_BTO = gated(inner_BTW, self.gate.weight, self.gate.bias)
        out: Tensor = self.norm(self.skip(given_BTX) + gated_BTO)
        return out


class GatedSkip(nn.Module):
    """A gate, a residual connection and a layer norm around whatever came before."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = StepDropout(dropout)
        self.gate = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, given_BTW: Tensor, skip_BTW: Tensor) -> Tensor:
        """Return [B, T, W]."""
        gated_BTW = gated(self.dropout(given_BTW), self.gate.weight, self.gate.bias)
        out: Tensor = self.norm(skip_BTW + gated_BTW)
        return out


class InterpretableAttention(nn.Module):
    """Multi-head attention whose heads share their values, so that their mean tells where it looks.

    Only the H future periods ask; each sees the valid past, and the future up to itself.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads, self.size, self.rate = heads, width // heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, self.size)
        self.out = nn.Linear(self.size, width, bias=False)

    def forward(self, given_BTW: Tensor, valid_BL: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Return [B, H, W] and the mean attention [B, H, T]."""
        rows, periods, _ = given_BTW.shape
        query = self.query(given_BTW[:, -horizon:]).view(rows, horizon, self.heads, self.size)
        query = query * self.size**-0.5
        key = self.key(given_BTW).view(rows, periods, self.heads, self.size)
        score = torch.einsum("bhns,btns->bnht", query, key)
        seen = torch.ones(horizon, horizon, dtype=torch.bool, device=score.device).tril()
        seen_BHT = torch.cat(
            [
                valid_BL.bool().unsqueeze(1).expand(rows, horizon, -1),
                seen.expand(rows, horizon, horizon),
            ],
            dim=-1,
        )
        unseen_BHT = torch.zeros_like(seen_BHT, dtype=score.dtype).masked_fill_(
            ~seen_BHT, float("-inf")
        )
        attention_BHT = (score + unseen_BHT.unsqueeze(1)).softmax(-1).mean(1)
        return self.out(attention_BHT @ self.value(given_BTW)), attention_BHT


class StepDropout(nn.Module):
    """Dropout with one mask for all periods of a row (Gal & Ghahramani 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, given_BTW: Tensor) -> Tensor:
        """Zero the same units of a row at every period, and scale up the others."""
        if not self.training or self.rate == 0:
            return given_BTW
        rows, _, width = given_BTW.shape
        return given_BTW * dropout_mask((rows, 1, width), self.rate, given_BTW.device)


def gated(given: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the gated linear unit of [..., X], given [2 Y, X] and [2 Y]: [..., Y].

    Its halves are two products: the backward pass of `glu` would compute the sigmoid again.
    """
    (value, opened), (value_bias, opened_bias) = weight.chunk(2), bias.chunk(2)
    said = functional.linear(given, value, value_bias)
    return said * functional.linear(given, opened, opened_bias).sigmoid()


def dropout_mask(shape: tuple[int, ...], rate: float, device: torch.device) -> Tensor:
    """Draw 0 with probability `rate`, else 1 / (1 - rate)."""
    return torch.rand(shape, device=device).ge(rate).to(torch.float32).div_(1 - rate)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    bound = fan_in**-0.5
    drawn = torch.empty(*shape).uniform_(-bound, bound)
    # Ranks wait for the gradient of every parameter, and one without elements gets none.
    return nn.Parameter(drawn, requires_grad=drawn.numel() > 0)
