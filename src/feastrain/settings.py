"""Settings: the place. What differs from one machine to the next, read from the environment.

Every setting is an environment variable `FEASTRAIN_NAME`. The science is in the recipe.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feastrain.errors import UsageError


class Settings(BaseSettings):
    """The settings of this machine; see each field for what it is for."""

    model_config = SettingsConfigDict(
        env_prefix="FEASTRAIN_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    artifacts: Path = Path("artifacts")
    """Folder of snapshots, runs, bundles and forecasts; relative to the project."""

    host: str = "127.0.0.1"
    """Address that `serve` listens on."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port that `serve` listens on."""

    max_series: int = Field(default=1000, ge=1)
    """Most series that one forecast request may name."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """Largest request body that is read."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """Most memory that the encoded rows of all training processes of this machine may take; more
    is mapped from files in the run's folder. By default half of the machine's memory."""

    ray_address: str | None = None
    """Ray cluster that recipes with `engine: ray` use; without it, one is started here."""

    walmart_dir: Path | None = None
    """Folder of Kaggle's three CSV files for the reference application; else its synthetic twin."""


def load_settings() -> Settings:
    """Read the settings of this machine.

    Raises:
        UsageError: an environment variable holds what its setting cannot be.
    """
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        name = f"FEASTRAIN_{'_'.join(str(part) for part in fault['loc']).upper()}"
        message = f"environment variable {name}={fault['input']!r}: {fault['msg']}"
        raise UsageError(message) from error
