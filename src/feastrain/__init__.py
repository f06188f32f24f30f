"""From a Feast feature service to a served forecast."""

from feastrain.project import Project
from feastrain.version import __version__

__all__ = ["Project", "__version__"]
