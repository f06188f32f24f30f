"""The stage that says what a TFT's forecasts rest on: which variables, and which periods.

Shapes as in `feastrain.models.tft`: V variables, L look-back periods, H steps, T = L + H.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch

from feastrain.artifacts import fingerprint, is_published, open_manifest, publishing, write_json
from feastrain.errors import UsageError
from feastrain.evaluation.explain_page import as_page
from feastrain.models.architecture import make_rows
from feastrain.models.batches import in_order
from feastrain.models.exported import Exported
from feastrain.models.network import Network
from feastrain.models.tft import TFT, variables
from feastrain.models.windows import WindowRows
from feastrain.shown import Shown

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from feastrain.dataset.snapshot import Snapshot
    from feastrain.models.bundle import Bundle
    from feastrain.models.encoder import Encoder
    from feastrain.models.tft import Explanation
    from feastrain.models.windows import WindowBatch

    Floats = NDArray[np.float64]

Part = Literal["train", "validation", "test"]
FORMAT = 1
FILE, PAGE = "explanation.json", "report.html"
MOST_ROWS = 20_000
"""Of a larger part, so many rows are taken, evenly spaced."""
BATCH_ROWS = 512


@dataclass(frozen=True)
class Shares:
    """What the model weighed, as means over rows; every list of shares adds up to 1."""

    recipe: str
    part: str
    rows: int
    static: dict[str, float]
    """By variable, the largest share first; `past` and `future` are means over periods, too."""
    past: dict[str, float]
    future: dict[str, float]
    attention: list[list[float]]
    """[H][L + H]: of each step, over the past periods, oldest first, and the steps up to it."""
    special: dict[str, float] | None
    """What a past period draws that is `special` (a holiday), and one that is `ordinary`; None
    where the rows look back on none of either."""

    @property
    def horizon(self) -> int:
        """How many steps there are."""
        return len(self.attention)

    def by_lag(self) -> dict[int, float]:
        """Return the mean attention of all steps on each past period; 1 closes at the cut-off."""
        mean_T = np.mean(self.attention, axis=0)
        past = mean_T[: len(mean_T) - self.horizon][::-1]
        return {lag: float(share) for lag, share in enumerate(past, start=1)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `explain` wrote."""
        content = json.loads(path.read_text())
        for of in ("static", "past", "future"):
            content[of] = dict(sorted(content[of].items(), key=lambda share: -share[1]))
        return cls(**content)


@dataclass(frozen=True)
class Explained(Shown):
    """A published explanation."""

    path: Path
    shares: Shares
    cached: bool

    @property
    def page(self) -> Path:
        """The file to look at."""
        return self.path / PAGE

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as plain JSON values."""
        return {"path": str(self.path), **asdict(self.shares)}


def explain(snapshot: Snapshot, bundle: Bundle, directory: Path, part: Part = "test") -> Explained:
    """Average over rows of the snapshot what the bundle's TFT selects and attends to; publish it.

    Raises:
        UsageError: the bundle's model is no TFT, or the part has no rows.
    """
    name = bundle.lineage["recipe"]["name"]
    network = next(filter(lambda one: isinstance(one.module, TFT), networks(bundle)), None)
    if network is None:
        kind = bundle.lineage["recipe"]["model"]["kind"]
        message = f"recipe {name!r} trains a model of kind {kind}, which selects and attends to "
        message += "nothing; explain a recipe with model: {kind: tft}"
        raise UsageError(message)
    final = directory / fingerprint(FORMAT, bundle.fingerprint, part)
    cached = is_published(final)
    if not cached:
        shares = _average(name, snapshot, bundle, network, part)
        with publishing(final, {"bundle": bundle.fingerprint, "part": part}) as scratch:
            write_json(scratch / FILE, asdict(shares))
            (scratch / PAGE).write_text(as_page(shares))
    open_manifest(final)
    return Explained(final, Shares.read(final / FILE), cached)


def networks(bundle: Bundle) -> list[Network]:
    """Return the bundle's networks as PyTorch runs them, to look into them; those of our own."""
    return [
        Network.load(member.folder, member.architecture) if isinstance(member, Exported) else member
        for member in bundle.members
        if isinstance(member, Exported | Network) and member.architecture["kind"] != "python"
    ]


def _average(name: str, snapshot: Snapshot, bundle: Bundle, network: Network, part: Part) -> Shares:
    rows = _sample(snapshot.rows(part))
    if not len(rows):
        message = f"the snapshot has no {part} rows; choose another part"
        raise UsageError(message)
    known, past = snapshot.known(), snapshot.rows()
    windows = make_rows(network.architecture, bundle.encoder, rows, known, past)
    assert isinstance(windows, WindowRows)
    assert isinstance(network.module, TFT)
    total = _Sums(bundle.encoder, bundle.lineage["recipe"]["label"]["event"])
    with torch.inference_mode():
        for index in in_order(len(rows), BATCH_ROWS):
            batch = windows.batch(index)
            total.add(network.module.explain(batch), batch)
    named = variables(bundle.encoder)
    return Shares(
        recipe=name,
        part=part,
        rows=len(rows),
        static=_shares(named.static, total.static_V),
        past=_shares(named.past, total.past_V),
        future=_shares(named.future, total.future_V),
        attention=(total.attention_HT / len(rows)).tolist(),
        special=total.special(),
    )


def _sample(rows: pa.Table) -> pa.Table:
    if len(rows) <= MOST_ROWS:
        return rows
    return rows.take(pa.array(np.arange(MOST_ROWS) * len(rows) // MOST_ROWS))


class _Sums:
    """What explanations of batches add up to."""

    def __init__(self, encoder: Encoder, event: str | None) -> None:
        names = variables(encoder)
        self.static_V, self.past_V, self.future_V = (
            np.zeros(len(of)) for of in (names.static, names.past, names.future)
        )
        self.attention_HT: Floats = np.zeros((encoder.columns.horizon, 1))
        self._event: tuple[int, int] | None = None
        if event in encoder.known_categories and "" in encoder.vocabularies[event]:
            ordinary = encoder.vocabularies[event].index("") + 1
            self._event = encoder.known_categories.index(event), ordinary
        self._drawn = {"special": 0.0, "ordinary": 0.0}
        self._periods = {"special": 0, "ordinary": 0}

    def add(self, explained: Explanation, batch: WindowBatch) -> None:
        """Add what the model weighed for a batch."""
        self.static_V += _sum(explained.static_BV)
        self.past_V += _sum(explained.past_BLV, batch.valid_BL)
        self.future_V += _sum(explained.future_BHV)
        self.attention_HT = self.attention_HT + explained.attention_BHT.double().sum(0).numpy()
        if self._event is not None:
            column, ordinary = self._event
            code_BL = batch.past_category_BLD[..., column]
            told_BL = (code_BL > 0) & (batch.valid_BL > 0)
            special_BL = code_BL != ordinary
            mean_BL = explained.attention_BHT.mean(1)[:, : code_BL.shape[1]]
            for name, of_BL in {"special": special_BL, "ordinary": ~special_BL}.items():
                self._drawn[name] += float(mean_BL[told_BL & of_BL].double().sum())
                self._periods[name] += int((told_BL & of_BL).sum())

    def special(self) -> dict[str, float] | None:
        """Return the mean attention on a special past period and on an ordinary one."""
        if not all(self._periods.values()):
            return None
        return {name: drawn / self._periods[name] for name, drawn in self._drawn.items()}


def _sum(weights: Tensor, counts: Tensor | None = None) -> Floats:
    """Return [V]: the weights added up over all rows and periods, or those that count."""
    weights = weights if counts is None else weights * counts.unsqueeze(-1)
    summed: Floats = weights.double().flatten(0, -2).sum(0).numpy()
    return summed


def _shares(names: tuple[str, ...], sum_V: Floats) -> dict[str, float]:
    return dict(zip(names, (sum_V / sum_V.sum()).tolist(), strict=True))
