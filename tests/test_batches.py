from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from feastrain.errors import DataError
from feastrain.models.batches import Rows, in_order, rows_read, shuffled, steps_per_epoch
from feastrain.models.encoder import fit
from tiny_snapshot import COLUMNS, tiny_tables

ROWS, KNOWN = tiny_tables()
ENCODER = fit(COLUMNS, ROWS, KNOWN)

many, sizes, worlds = st.integers(4, 500), st.integers(1, 50), st.integers(1, 4)
seeds = st.integers(0, 1_000_000)


def _epoch(
    rows: int, batch: int, world: int, seed: int = 0, epoch: int = 0, start: int = 0
) -> list[list[list[int]]]:
    """Return what every rank takes in every step of an epoch."""
    common = {"batch_rows": batch, "seed": seed, "epoch": epoch, "world_size": world}
    return [
        [share.tolist() for share in shuffled(rows, rank=rank, start_step=start, **common)]
        for rank in range(world)
    ]


@given(many, sizes, worlds, seeds, sizes)
def test_an_epoch_is_every_row_once(rows: int, batch: int, world: int, seed: int, epoch: int):
    """Over all ranks and steps, each row is taken once."""
    taken = [r for rank in _epoch(rows, batch, world, seed, epoch) for step in rank for r in step]
    assert list(range(rows)) == sorted(taken)


@given(many, sizes, worlds)
def test_ranks_take_equal_steps_of_nearly_equal_shares(rows: int, batch: int, world: int):
    """No rank waits for another: equally many steps, and shares that differ by a row at most."""
    shares = _epoch(rows, batch, world)
    assert [steps_per_epoch(rows, batch, world)] * world == [len(rank) for rank in shares]
    lengths = {len(step) for rank in shares for step in rank}
    assert max(lengths) - min(lengths) <= 1
    assert 1 <= min(lengths)
    assert max(lengths) <= max(2, batch)


@given(many, sizes, worlds, seeds, st.integers(0, 40))
def test_an_epoch_goes_on_from_any_step(rows: int, batch: int, world: int, seed: int, start: int):
    """What is taken from a step on is the tail of what the whole epoch takes."""
    whole, tail = (_epoch(rows, batch, world, seed, 1, first) for first in (0, start))
    assert [rank[start:] for rank in whole] == tail


@given(many, sizes, worlds, seeds)
def test_ranks_share_the_steps_that_one_would_take(rows: int, batch: int, world: int, seed: int):
    """What all ranks take in a step is what one rank takes with a batch of all of theirs."""
    many_ranks, (one,) = (_epoch(rows, b, w, seed) for b, w in ((batch, world), (batch * world, 1)))
    assume(len(many_ranks[0]) == len(one))
    assert one == [list(chain(*step)) for step in zip(*many_ranks, strict=True)]


@given(many, sizes, worlds, worlds, seeds, st.integers(0, 40))
def test_another_number_of_ranks_reads_the_rows_that_are_left(
    rows: int, batch: int, before: int, after: int, seed: int, step: int
):
    """Whenever the ranks change in an epoch, every row is still taken once."""
    step = min(step, steps_per_epoch(rows, batch, before))
    read = rows_read(rows, batch_rows=batch, world_size=before, step=step)
    assume(rows - read >= after)
    taken = [r for rank in _epoch(rows, batch, before, seed) for s in rank[:step] for r in s]
    assert read == len(taken)
    common = {"batch_rows": batch, "seed": seed, "epoch": 0, "world_size": after}
    for rank in range(after):
        for share in shuffled(rows, rank=rank, first_row=read, **common):
            taken += share.tolist()
    assert list(range(rows)) == sorted(taken)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """The order is a function of seed and epoch alone."""
    assert _epoch(50, 50, 1, 1, 1) == _epoch(50, 50, 1, 1, 1)
    assert _epoch(50, 50, 1, 1, 1) != _epoch(50, 50, 1, 1, 2)
    assert _epoch(50, 50, 1, 1, 1) != _epoch(50, 50, 1, 2, 1)


def test_fewer_rows_than_ranks_are_refused() -> None:
    """A rank without rows would hold up the others: one line says what to change."""
    with pytest.raises(DataError, match=r"3 training rows are fewer than the 4 processes"):
        steps_per_epoch(3, 1, 4)


@given(st.integers(0, 300), sizes, worlds)
def test_ranks_share_validation_rows_exactly(rows: int, batch: int, world: int) -> None:
    """Every row in order is taken once, by one rank."""
    taken = [i for r in range(world) for index in in_order(rows, batch, r, world) for i in index]
    assert list(range(rows)) == [int(i) for i in taken]


@given(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=40))
def test_a_batch_is_the_encoded_rows(chosen: list[int]) -> None:
    """Every field of a batch has the values that the encoder gave for its rows, bit for bit."""
    encoded, labels = ENCODER.encode(ROWS, KNOWN), ENCODER.labels(ROWS)
    rows = Rows(encoded, labels)
    batch, label_BH, weight_BH = rows.examples(torch.tensor(chosen))
    group_B = encoded.group_N[chosen]
    for expected, actual in (
        (encoded.row_NF[chosen], batch.row_BF),
        (encoded.category_NC[chosen], batch.category_BC),
        (encoded.step_NHS[chosen], batch.step_BHS),
        (encoded.known_GHK[group_B], batch.known_BHK),
        (encoded.known_category_GHD[group_B], batch.known_category_BHD),
        (encoded.unit_N[chosen], batch.unit_B),
        (labels[0][chosen], label_BH),
        (labels[1][chosen], weight_BH),
    ):
        np.testing.assert_array_equal(expected, actual.numpy(), strict=False)
        assert expected.shape == actual.shape
