"""Where the weights of a MODEL lie, for the commands that read them."""

from pathlib import Path

from deployment.packages.found import find_model
from registry.errors import UsageError
from registry.home import Home
from registry.models import local_model
from registry.urls import masked
from tasks.checkpoints.hub import model_path

_SERVERS = ("ollama:", "http://", "https://")


def weights_of(model: str, home: Path | None) -> Path:
    """The file or folder of ``model``, of a package its file.

    Raises UsageError for a server, which shows no weights, and as the registry and the hub do.
    """
    if model.startswith(_SERVERS):
        raise UsageError(f"{masked(model)} is a server, which shows no weights; give a folder, a .gguf or a package.")
    return model_path(find_model(local_model(model, Home.locate(home)), labels=None).spec)
