"""From what a Feast repo has to a recipe: what each view and column is taken for, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from feastrain.adopt import looking
from feastrain.adopt.candidates import keys_in
from feastrain.adopt.reading import Guess
from feastrain.errors import UsageError
from feastrain.recipe import format_period

if TYPE_CHECKING:
    from feastrain.adopt.candidates import Candidate
    from feastrain.adopt.reading import Found, Table, View
    from feastrain.recipe import Role

DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)
NUMBERED = re.compile(r"(?P<stem>.+)_(?P<step>\d+)")
SAME_SIZE = 5
"""How many times larger or smaller a number in the label's unit may typically be."""


@dataclass(frozen=True)
class Proposal:
    """A recipe before it is written, with the reason for each part of it."""

    service: str
    label: Candidate
    label_name: str
    """The label's column; not the name of a feature."""
    entities: tuple[str, ...]
    grid: looking.Grid
    season: int
    horizon: int
    views: tuple[tuple[View, Role], ...]
    period_key: str | None
    stepped: tuple[str, ...]
    categorical: tuple[str, ...]
    label_units: tuple[str, ...]
    unit: tuple[str, ...]
    guesses: tuple[Guess, ...]

    @property
    def held_out(self) -> int:
        """How many cut-offs validate."""
        return max(1, min(self.season if self.season > 1 else 4, self.grid.periods // 20))


def propose(found: Found, label: Candidate, service: str | None) -> Proposal:
    """Propose a recipe for the label on the features of a service.

    Raises:
        UsageError: there is no such service, its views do not fit the label's series, or the
            label has too few periods.
    """
    name, chosen = _service(found, service)
    period_keys = {key for table in found.tables for key in _period_keys(table, found)}
    entities = tuple(key for key in keys_in(label.table, found) if key not in period_keys)
    grid = looking.find_grid(label.table, entities)
    guesses = [chosen, *_about_label(label, entities, grid)]
    views, said = _views(found.of_service(name), entities, grid)
    guesses += said
    if not views:
        reasons = "; ".join(f"{one.what}: {one.why}" for one in guesses if one.taken == "left out")
        message = f"service {name!r} has no view to forecast {label.name} from: {reasons}"
        raise UsageError(message)
    taken = {feature for view, _ in views for feature in view.features}
    asked_ahead = {key for view, role in views if role == "known_ahead" for key in view.keys}
    period_key = next(iter(asked_ahead - {*entities}), None)
    observed = [view for view, role in views if role == "observed"]
    stepped = _stepped(observed)
    horizon, why = _horizon(grid, stepped)
    guesses.append(Guess("horizon", str(horizon), why))
    stems = tuple(stem for stem, steps in stepped.items() if steps >= horizon)
    if stems:
        guesses.append(
            Guess(", ".join(stems), "stepped", "step 2 of a row is step 1 of the next: one a step")
        )
    units, unit, said = _units(observed, label, stems, horizon)
    texts = tuple(f for view, _ in views for f, kind in view.features.items() if kind == "String")
    guesses += said
    guesses.append(
        Guess(
            ", ".join((*entities, *texts)), "categorical", "keys and text are learnt as embeddings"
        )
    )
    return Proposal(
        name,
        label,
        f"target_{label.column}" if label.column in taken else label.column,
        entities,
        grid,
        _season(grid),
        horizon,
        tuple(views),
        period_key,
        stems,
        (*entities, *texts),
        units,
        unit,
        (*guesses, *found.left_out),
    )


def _views(
    given: tuple[View, ...], entities: tuple[str, ...], grid: looking.Grid
) -> tuple[list[tuple[View, Role]], list[Guess]]:
    """Return the views that can be used, each with its role, and why so."""
    views: list[tuple[View, Role]] = []
    guesses: list[Guess] = []
    taken: set[str] = set()
    for view in given:
        role, guess = _role(view, entities, grid)
        kept, repeated = _without(view, taken)
        guesses += [guess, *(repeated if role else ())]
        if role is None or kept is None:
            continue
        kept, said = _known_when(kept, role, grid)
        guesses += said
        views.append((kept, role))
        taken |= {*kept.features}
    return views, guesses


def _service(found: Found, asked: str | None) -> tuple[str, Guess]:
    if asked is not None and asked not in found.services:
        message = f"no feature service {asked!r}; there is {', '.join(found.services)}"
        raise UsageError(message)
    sizes = {
        name: sum(len(view.features) for view in found.of_service(name)) for name in found.services
    }
    name = asked or max(sizes, key=lambda service: sizes[service])
    others = ", ".join(f"{other} {size}" for other, size in sizes.items() if other != name)
    why = f"{sizes[name]} features can be used" + (f" (of {others})" if others else "")
    return name, Guess(name, "service", "you said so" if asked else why)


def _about_label(label: Candidate, entities: tuple[str, ...], grid: looking.Grid) -> list[Guess]:
    size = f"{grid.series:,} series of {grid.periods:,} periods"
    guesses = [
        Guess(label.name, "label", label.why),
        Guess(", ".join(entities), "entities", f"the join keys that its table has: {size}"),
        Guess(
            label.table.event_timestamp,
            "event timestamp",
            "taken as the close of the period whose value the row has",
        ),
        Guess(
            format_period(grid.frequency),
            "frequency",
            "the commonest step between rows of a series",
        ),
    ]
    if grid.since is not None:
        guesses.append(
            Guess(
                f"{grid.ignored:,} rows before {grid.since:%Y-%m-%d %H:%M}",
                "left out",
                f"no row lies in the {looking.ISOLATED} periods after them; labels.sql says so",
            )
        )
    return guesses


def _period_keys(table: Table, found: Found) -> list[str]:
    return [key for key in found.join_keys if looking.days_ahead(table, key) is not None]


def _role(view: View, entities: tuple[str, ...], grid: looking.Grid) -> tuple[Role | None, Guess]:
    extra = [key for key in view.keys if key not in entities]
    columns = [view.table.column_of(feature) for feature in view.features]
    if extra:
        ahead = looking.days_ahead(view.table, extra[0]) if len(extra) == 1 else None
        if ahead is None:
            keys = ", ".join(extra)
            return None, Guess(view.name, "left out", f"keyed by {keys}, which the label has not")
        why = (
            f"its key {extra[0]} names periods, and a row is there {ahead:,.0f} days before its own"
        )
        return "known_ahead", Guess(view.name, "known ahead", why)
    if looking.is_constant(view.table, view.keys, columns):
        return "static", Guess(view.name, "static", "no key has two values of anything")
    why = "its values change with time: read as of the cut-off"
    if view.ttl and view.ttl < grid.frequency:
        why += f"; its ttl of {view.ttl} is less than a period, so much of it may read as null"
    return "observed", Guess(view.name, "observed", why)


def _without(view: View, taken: set[str]) -> tuple[View | None, list[Guess]]:
    """Return the view without features that another one has too."""
    kept = {name: kind for name, kind in view.features.items() if name not in taken}
    repeated = [
        Guess(f"{view.name}:{name}", "left out", "another view of the service has that name")
        for name in view.features
        if name in taken
    ]
    return (replace(view, features=kept) if kept else None), repeated


def _known_when(view: View, role: Role, grid: looking.Grid) -> tuple[View, list[Guess]]:
    """Return the view without times that tell nothing: of a bulk load, of what never changes."""
    guesses = []
    why = looking.written_at_once(view.table, grid.frequency)
    if why is not None:
        view = replace(view, table=replace(view.table, created=None))
        guesses.append(Guess(f"{view.name}: created", "left out", why))
    if role == "static" and view.ttl:
        guesses.append(
            Guess(f"{view.name}: ttl", "none", f"what is static is not stale in {view.ttl}")
        )
        view = replace(view, ttl=None)
    return view, guesses


def _stepped(views: list[View]) -> dict[str, int]:
    """Return how many steps each group of features `STEM_1`, `STEM_2`, ... has."""
    found = {}
    for view in views:
        numbers: dict[str, set[int]] = {}
        for match in map(NUMBERED.fullmatch, view.features):
            if match is not None:
                numbers.setdefault(match["stem"], set()).add(int(match["step"]))
        for stem, steps in numbers.items():
            near, far = (view.table.column_of(f"{stem}_{step}") for step in (1, 2))
            if {1, 2} <= steps and looking.is_about_steps(view.table, view.keys, near, far):
                found[stem] = next(n for n in range(2, len(steps) + 2) if n + 1 not in steps)
    return found


def _horizon(grid: looking.Grid, stepped: dict[str, int]) -> tuple[int, str]:
    most = grid.periods // 8
    if most < 1:
        message = f"the label has {grid.periods} periods; at least 8 are needed"
        raise UsageError(message)
    if stepped and max(stepped.values()) <= most:
        return max(stepped.values()), "as many as the stepped features have"
    usual = 8 if grid.frequency >= WEEK else 14 if grid.frequency >= DAY else 24
    return min(
        usual, most
    ), "usual for this frequency" if usual <= most else "an eighth of the periods"


def _season(grid: looking.Grid) -> int:
    """Return how many periods a season has; 1 where two of them are not there."""
    whole = WEEK if grid.frequency >= DAY else DAY
    season = 52 if grid.frequency == WEEK else max(1, int(whole / grid.frequency))
    return season if 2 * season < grid.periods else 1


def _units(
    views: list[View], label: Candidate, stems: tuple[str, ...], horizon: int
) -> tuple[tuple[str, ...], tuple[str, ...], list[Guess]]:
    """Return the features in the label's unit, and the one that says how large a series is."""
    size = looking.typical(label.table, [label.column])[label.column]
    columns = {f"{stem}_{step}": stem for stem in stems for step in range(1, horizon + 1)}
    alike: dict[str, None] = {}
    for view in views:
        named = [f for f, kind in view.features.items() if label.column in f and kind != "String"]
        sizes = (
            looking.typical(view.table, [view.table.column_of(f) for f in named]) if named else {}
        )
        for feature in named:
            typical = sizes[view.table.column_of(feature)]
            if size / SAME_SIZE <= typical <= size * SAME_SIZE:
                alike[columns.get(feature, feature)] = None
    units = tuple(alike)
    means = [f for f in units if re.search("mean|avg|average", f.removeprefix(label.column))]
    unit = tuple(sorted(means, key=_number)[-1:])
    guesses = []
    if units:
        why = f"named like {label.column!r} and about as large"
        guesses.append(Guess(", ".join(units), "in the label's unit", why))
    if unit:
        guesses.append(Guess(unit[0], "size of a series", "its longest mean"))
    return units, unit, guesses


def _number(name: str) -> int:
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else 0
