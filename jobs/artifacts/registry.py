"""Which store a URL of the settings means."""

from collections.abc import Callable, Mapping

from jobs.artifacts.base import ArtifactStore
from jobs.artifacts.local import LocalStore
from jobs.settings import Settings

# The settings say which URLs there are.
STORES: Mapping[str, Callable[[Settings], ArtifactStore]] = {
    "file": lambda settings: LocalStore(settings.artifacts_folder),
}


def open_store(settings: Settings) -> ArtifactStore:
    """The store of a deployment."""
    scheme = (settings.artifacts_url or "file://").partition("://")[0]
    return STORES[scheme](settings)
