"""From a Feast feature service to a served forecast."""

from feastrain.project import Project

__version__ = "0.1.0"
__all__ = ["Project", "__version__"]
