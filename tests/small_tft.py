"""The reference application's TFT recipe, small enough to train in seconds."""

from pathlib import Path

import yaml


def small_tft(root: Path, context: int = 10) -> Path:
    """Shrink the model of a project's `recipes/tft.yaml` and its training; return the file."""
    path = root / "recipes" / "tft.yaml"
    content = yaml.safe_load(path.read_text())
    content["model"] |= {"context": context, "hidden": 8, "heads": 2, "dropout": 0.0}
    content["training"] |= {"epochs": 2, "batch_rows": 64, "learning_rate": 0.02, "processes": 1}
    path.write_text(yaml.safe_dump(content))
    return path
