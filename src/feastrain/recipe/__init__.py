"""The recipe: the science of one forecast, as one typed, frozen YAML file.

A recipe says what to forecast from what, how to split it, what the data must look like,
and how to train. It never says where: endpoints and folders of one machine are settings
(`feastrain.settings`). Unknown keys are refused.

`data.py`, `models.py` and `search.py` hold its sections, `whole.py` the recipe that they make,
`reading.py` what reads one.
"""

from __future__ import annotations

from feastrain.recipe.data import (
    Audit,
    Backtest,
    FeatureColumns,
    Features,
    Label,
    Retrieval,
    Role,
    Split,
    Transform,
)
from feastrain.recipe.models import (
    NETWORKS,
    OPERATIONAL,
    BaselineModel,
    EnsembleModel,
    Member,
    MLPModel,
    Model,
    PythonModel,
    QuantileModel,
    TFTModel,
    Training,
    TreesModel,
)
from feastrain.recipe.periods import (
    Period,
    format_period,
    parse_period,
)
from feastrain.recipe.reading import (
    load_recipe,
    place_of,
    recipe_of,
    with_values,
)
from feastrain.recipe.search import (
    Choices,
    Range,
)
from feastrain.recipe.whole import (
    Recipe,
)

__all__ = [
    "NETWORKS",
    "OPERATIONAL",
    "Audit",
    "Backtest",
    "BaselineModel",
    "Choices",
    "EnsembleModel",
    "FeatureColumns",
    "Features",
    "Label",
    "MLPModel",
    "Member",
    "Model",
    "Period",
    "PythonModel",
    "QuantileModel",
    "Range",
    "Recipe",
    "Retrieval",
    "Role",
    "Split",
    "TFTModel",
    "Training",
    "Transform",
    "TreesModel",
    "format_period",
    "load_recipe",
    "parse_period",
    "place_of",
    "recipe_of",
    "with_values",
]
