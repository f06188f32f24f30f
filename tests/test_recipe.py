import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from feastrain.errors import FeastrainError, LeakageError, RecipeError
from feastrain.recipe import Recipe, format_period, load_recipe, parse_period, recipe_of

RECIPES = Path(__file__).parents[1] / "src" / "feastrain" / "templates" / "demand" / "recipes"

GOOD = {
    "name": "good",
    "entities": ["shop"],
    "frequency": "1w",
    "horizon": 4,
    "label": {"source": "labels.parquet", "column": "sold"},
    "features": {"repo": "feature_repo", "service": "all", "roles": {"history": "observed"}},
}


def _write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def test_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    """A recipe of the required keys alone is whole, and its embargo is its horizon."""
    recipe = load_recipe(_write(tmp_path / "good.yaml", GOOD))
    assert (4, timedelta(weeks=1)) == (recipe.embargo, recipe.frequency)
    assert ["x_1", "x_2", "x_3", "x_4"] == recipe.stepped_columns("x")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"horizn": 8}, "unknown key 'horizn'"),
        ({"horizon": 0}, "horizon: "),
        ({"frequency": "weekly"}, "frequency: must be a whole number and a unit"),
        ({"split": {"embargo": 2}}, "split.embargo is 2, less than the horizon of 4"),
        ({"model": {"quantiles": [0.1, 0.9]}}, "quantiles must increase strictly and hold 0.5"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: "),
        ({"name": "../escape"}, "name: "),
        ({"drift": {"severity": "warn"}}, "drift: drift limits nothing"),
        ({"drift": {"max_psi": 0}}, "drift.max_psi: "),
        ({"expectations": [{"column": "x"}]}, "expectations.0: .* checks nothing"),
        ({"label": {"column": "sold"}}, "key 'label.source' is missing"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    """Each fault names the file, the key and what is wrong with it."""
    path = _write(tmp_path / "bad.yaml", GOOD | change)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert (True, True, False) == (
        re.search(told, message) is not None,
        "bad.yaml" in message,
        "\n" in message,
    )
    assert 2 == caught.value.exit_code


PLACES = [
    ("name",),
    ("entities", 0),
    ("frequency",),
    ("label", "source"),
    ("label", "column"),
    ("label", "event"),
    ("features", "repo"),
    ("features", "service"),
    ("features", "period_key"),
    ("features", "stepped"),
    ("features", "roles", "history"),
    ("model", "kind"),
    ("expectations",),
]
HOSTILE = st.sampled_from(
    ["../../etc", "/etc/passwd", "\0", "'; DROP TABLE x; --", "{{7*7}}", "${HOME}", "a\nb", "~"]
)


@given(place=st.sampled_from(PLACES), text=HOSTILE | st.text(max_size=40))
def test_a_recipe_may_say_anything_and_is_kept_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], text: str
) -> None:
    """Whatever stands where text is meant: it is taken as it is, and runs nothing."""
    content: Any = json.loads(json.dumps(GOOD | {"model": {}}))
    section = content
    for part in place[:-1]:
        section = section[part]
    section[place[-1]] = text
    path = _write(tmp_path_factory.getbasetemp() / "said.yaml", content)
    try:
        kept: Any = load_recipe(path).model_dump(mode="json")
    except (RecipeError, LeakageError) as error:
        kept, told = None, str(error)
    else:
        told = ""
        for part in place if place != ("frequency",) else ():
            kept = kept[part]
    assert "\n" not in told
    assert kept is None or place == ("frequency",) or kept in {text, str(Path(text))}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.x"])
def test_a_recipe_runs_nothing(tmp_path: Path, tag: str) -> None:
    """YAML's tags for Python's objects are none of a recipe."""
    path = tmp_path / "tagged.yaml"
    path.write_text(f"name: {tag}\n")
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", ""])
def test_what_is_no_mapping_is_told(tmp_path: Path, text: str) -> None:
    """A file that is not a YAML mapping is refused by name."""
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"odd\.yaml"):
        load_recipe(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_survives_json(path: Path) -> None:
    """What a bundle keeps of its recipe reads back as the same recipe, quantiles and bounds too."""
    recipe = load_recipe(path)
    kept = json.loads(json.dumps(recipe.model_dump(mode="json")))
    assert recipe == Recipe.model_validate(kept)
    section = json.loads(json.dumps(recipe.data_section()))
    bounds = [entry["rows"] for entry in section["expectations"] if "rows" in entry]
    assert [[500.0, None]] == bounds


def test_label_among_the_features_is_a_leak(tmp_path: Path) -> None:
    """Giving the label a role is a leak, with the exit code of one."""
    roles = {"history": "observed", "sold": "observed"}
    content = GOOD | {"features": GOOD["features"] | {"roles": roles}}
    with pytest.raises(LeakageError, match="'sold' is listed among the features") as caught:
        load_recipe(_write(tmp_path / "leak.yaml", content))
    assert 4 == caught.value.exit_code


def test_missing_recipe_says_how_to_get_one(tmp_path: Path) -> None:
    """A recipe that is not there is a usage error with a remedy."""
    with pytest.raises(FeastrainError, match="feastrain init"):
        load_recipe(tmp_path / "none.yaml")


@given(st.integers(1, 10_000), st.sampled_from("hdw"))
def test_periods_survive_a_round_trip(count: int, unit: str) -> None:
    """What is written for a period reads as the same period."""
    period = parse_period(f"{count}{unit}")
    assert period == parse_period(format_period(period))


def test_a_period_that_is_no_whole_hours_cannot_be_written() -> None:
    """It could not be read back."""
    with pytest.raises(ValueError, match="1:30:00 is not a whole number of hours"):
        format_period(timedelta(minutes=90))


def test_heads_divide_the_width(tmp_path: Path) -> None:
    """One line says which numbers do not fit."""
    model = {"kind": "tft", "context": 4, "hidden": 10, "heads": 3}
    path = _write(tmp_path / "tft.yaml", GOOD | {"model": model})
    with pytest.raises(RecipeError, match="hidden is 10, which 3 heads do not divide"):
        load_recipe(path)


def test_a_bundle_of_another_release_is_told_in_one_line(tmp_path: Path) -> None:
    """A recipe with a key that this release does not have names the release that trained it."""
    recipe = load_recipe(_write(tmp_path / "good.yaml", GOOD))
    kept = recipe.model_dump(mode="json")
    assert recipe == recipe_of({"recipe": kept})
    kept["training"]["magic"] = True
    with pytest.raises(RecipeError, match=r"trained by feastrain 9\.9.*'training\.magic'.*again"):
        recipe_of({"recipe": kept, "feastrain": "9.9"})
