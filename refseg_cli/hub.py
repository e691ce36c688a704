"""Models on the Hugging Face hub, named `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`: fetched into its cache, and uploaded.

What the cache holds is used as it is, without a question to the hub. Everything else is asked once, with a short
timeout: the hub's own client would try for 23 s before it says that there is no network. Knows no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from refseg_cli.errors import RefsegError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
PATIENCE = 5.0  # seconds until a hub that does not answer counts as out of reach
CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin")
# What a model is loaded from; nothing of the kind that runs (*.py), and of the other frameworks' weights none.
LOADED = ("*.json", "*.txt", "*.model", "*.safetensors")


def is_hub_name(name: str) -> bool:
    """Whether a user means the hub, rather than a folder."""
    return name.startswith(PREFIX)


def split_name(name: str) -> tuple[str, str | None]:
    """`hf:ORG/NAME@REVISION` -> (`ORG/NAME`, `REVISION`); without a revision None, the hub's main branch.

    Raises:
        RefsegError: no name that a model on the hub can have.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise HFValidationError("no organisation or user before a slash")
    except HFValidationError as error:
        raise RefsegError(f"{name}: not the name of a model on the hub", hint=f"{PREFIX}ORG/NAME") from error
    return repository, revision or None


def config_file(name: str) -> Path:
    """The model's config.json; nothing else is downloaded.

    Raises:
        RefsegError: no such model, or the hub cannot be asked.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository, revision = split_name(name)
    cached = try_to_load_from_cache(repository, CONFIG, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    with _asking(name) as api:
        if CONFIG not in _files(api, name):
            raise RefsegError(f"{name}: has no {CONFIG}", hint="is it a model of transformers, or one of refseg's?")
        return Path(hf_hub_download(repository, CONFIG, revision=revision, etag_timeout=PATIENCE))


def folder(name: str) -> Path:
    """The model's folder in the hub's cache, downloaded if it is not there; a bar shows how far, on a terminal.

    Raises:
        RefsegError: no such model, one that asks for a licence to be accepted first, one without weights, or a hub
            that cannot be asked.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = split_name(name)
    try:
        cached = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=CONFIG))
    except LocalEntryNotFoundError:
        cached = None
    if cached and (cached / CONFIG).is_file() and has_weights(cached):
        return cached
    with _asking(name) as api:
        files = _files(api, name)
        kinds = [kind for kind in WEIGHTS if any(Path(file).match(kind) for file in files)]
        if not kinds:
            raise RefsegError(f"{name}: has no weights on the hub", hint=f"{' or '.join(WEIGHTS)}")
        wanted = [*LOADED, kinds[0]]  # pickles only where there is nothing better; transformers reads them restricted
        with _bars():
            found = snapshot_download(repository, revision=revision, etag_timeout=PATIENCE, allow_patterns=wanted)
    return Path(found)


def upload(source: Path, name: str, *, private: bool = False) -> str:
    """Put a folder's files on the hub, as one commit; the model is made if it is not there yet. Gives its address.

    Raises:
        RefsegError: no name, no right to write there, or the hub cannot be asked.
    """
    repository, revision = split_name(name)
    with _asking(name) as api, _bars():
        api.whoami()
        made = api.create_repo(repository, private=private, exist_ok=True)
        try:
            api.upload_folder(
                repo_id=repository, folder_path=source, revision=revision, commit_message="Upload a refseg checkpoint"
            )
        except ValueError as error:  # it has the hub look at the card first
            raise RefsegError(f"{name}: the hub refuses the model card: {' '.join(str(error).split())}") from error
    return str(made)


def has_weights(path: Path) -> bool:
    """Whether a folder holds any."""
    return any(path.glob(WEIGHTS[0])) or any(path.glob(WEIGHTS[1]))


def _files(api: HfApi, name: str) -> Sequence[str]:
    """What the model consists of: one question, without the retries of a download."""
    repository, revision = split_name(name)
    info = api.model_info(repository, revision=revision, timeout=PATIENCE)
    return [file.rfilename for file in info.siblings or ()]


@contextmanager
def _asking(name: str) -> Iterator[HfApi]:
    """The hub's client, with its errors in one line each."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, revision = split_name(name)
    if constants.HF_HUB_OFFLINE:
        raise RefsegError(
            f"{name}: not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it",
            hint=f"unset HF_HUB_OFFLINE, or give a folder that `hf download {repository}` made elsewhere",
        )
    try:
        yield HfApi()
    except RefsegError:
        raise
    except GatedRepoError as error:
        raise RefsegError(
            f"{name}: gated: its licence has to be accepted first",
            hint=f"accept it at https://huggingface.co/{repository}, then `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise RefsegError(
            f"{name}: no such model on the hub, or no access to it", hint="check the name; if private, `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise RefsegError(f"{name}: no revision {revision!r} on the hub", hint="a branch, a tag or a commit") from error
    except LocalTokenNotFoundError as error:
        raise RefsegError(f"{name}: not logged in to the hub", hint="`hf auth login` first") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = "`hf auth login` with a token that may do this" if status in (401, 403) else "try again later"
        raise RefsegError(f"{name}: the hub refuses: {first_line(error)}", hint=hint) from error
    except Exception as error:  # of whatever HTTP library the client has this year
        raise RefsegError(
            f"{name}: not in the hub's cache, and the hub is out of reach: {first_line(error)}",
            hint=f"check the network, or give a folder that `hf download {repository}` made elsewhere",
        ) from error


@contextmanager
def _bars() -> Iterator[None]:
    """The client's bars, on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled() or (sys.stderr is not None and sys.stderr.isatty()):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
