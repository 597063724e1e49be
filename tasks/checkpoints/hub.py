"""Models of the Hugging Face hub, from its local cache where they are there."""

from pathlib import Path

from registry.errors import ServiceUnavailable, UsageError

_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
          "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja",
          "special_tokens_map.json", "added_tokens.json"]  # fmt: skip


def model_path(name: str, revision: str = "main") -> Path:
    """A path as it is; a hub id as the folder that the hub's cache keeps."""
    path = Path(name)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        return path
    return hub_folder(name, revision)


def hub_folder(name: str, revision: str) -> Path:
    """The folder of a hub id in the cache.

    Raises:
        UsageError: there is no such model or revision, or its licence was not accepted.
        ServiceUnavailable: the hub is out of reach and the model is not in the cache.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        XetDownloadError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except GatedRepoError as error:
        raise UsageError(
            f"{name} is licence-gated: accept its terms on its hub page and set HF_TOKEN, or take a profile with "
            "another base."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UsageError(
            f"the hub has no model {name} with a revision {revision}, or HF_TOKEN may not see it; check both."
        ) from error
    except LocalEntryNotFoundError as error:
        raise ServiceUnavailable(
            f"the hub is out of reach and {name} is not in the local cache; connect once, or take a profile with "
            "another base."
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, XetDownloadError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ServiceUnavailable(f"the hub did not deliver {name} ({reason}); try again later.") from error
