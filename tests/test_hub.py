"""The hub without a network: its cache, one question at most, and one line for everything that may be wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from refseg_cli import checkpoint, hub
from refseg_cli.app import main
from refseg_cli.errors import FOUND, RefsegError
from refseg_cli.segmenters.trained import Predictor

COMMIT = "c" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that fails the test when it is asked."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    return folder


def store(cache: Path, repository: str, source: Path) -> Path:
    """A model as a download leaves it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(source, place / "snapshots" / COMMIT))


class _Response:
    """As much of a response as the client's errors look at."""

    def __init__(self, status: int = 404) -> None:
        self.status_code, self.headers, self.request = status, {}, None


def asked(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[dict[str, Any]]:
    """How often the hub is asked, and how; it answers with an error."""
    questions: list[dict[str, Any]] = []

    def refuse(self: HfApi, repository: str, **how: Any) -> None:
        questions.append(how)
        raise error

    monkeypatch.setattr(HfApi, "model_info", refuse)
    return questions


@pytest.mark.parametrize("name", ["hf:", "hf:alone", "hf:a/b/c", "hf:a//b", "hf:a/b c"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(RefsegError, match=r"not the name of a model on the hub \(hf:ORG/NAME\)"):
        hub.split_name(name)


def test_names() -> None:
    assert hub.split_name("hf:org/name") == ("org/name", None)
    assert hub.split_name("hf:org/name@v1") == ("org/name", "v1")


def test_a_cached_checkpoint_is_loaded_without_a_question(cache: Path, untrained: Path) -> None:
    place = store(cache, "org/tiny", untrained)
    assert hub.config_file("hf:org/tiny") == place / "config.json"
    assert checkpoint.resolve("hf:org/tiny") == place
    assert Predictor("hf:org/tiny", device="cpu").name == "tiny"


def test_a_cache_with_config_alone_is_not_enough(cache: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store(cache, "org/tiny", untrained) / "model.safetensors").unlink()
    questions = asked(monkeypatch, ConnectionError("no route"))
    with pytest.raises(RefsegError, match="out of reach: no route"):
        hub.folder("hf:org/tiny")
    assert len(questions) == 1


def test_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ask in (hub.folder, hub.config_file):
        with pytest.raises(RefsegError, match=r"HF_HUB_OFFLINE forbids .* that `hf download org/name` made"):
            ask("hf:org/name")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            GatedRepoError("no", response=_Response(403)),
            "licence has to be accepted first .*https://huggingface.co/org/name, then `hf",
        ),
        (RepositoryNotFoundError("no", response=_Response()), "no such model on the hub"),
        (RevisionNotFoundError("no", response=_Response()), "no revision 'v1' on the hub"),
        (HfHubHTTPError("503 busy\nmore", response=_Response(503)), r"the hub refuses: 503 busy \(try again later\)"),
        (LocalTokenNotFoundError("no"), r"`hf auth login` first"),
        (TimeoutError(""), "the hub is out of reach: TimeoutError"),
    ],
)
def test_the_hub_is_asked_once_and_its_error_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    for ask in (hub.folder, hub.config_file):
        questions = asked(monkeypatch, error)
        with pytest.raises(RefsegError, match=said) as raised:
            ask("hf:org/name@v1")
        assert "\n" not in str(raised.value)
        assert questions == [{"revision": "v1", "timeout": hub.PATIENCE}]


def test_a_download(cache: Path, monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    """Pickles and programs stay where they are, and no bar is drawn where nobody looks."""
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "tokenizer.json"]
    info = type("Info", (), {"siblings": [type("File", (), {"rfilename": name}) for name in files]})
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: info)
    seen: list[dict[str, Any]] = []

    def download(repository: str, **how: Any) -> str:
        if how.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        seen.append({**how, "bars": not huggingface_hub.utils.are_progress_bars_disabled()})
        return str(untrained)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.folder("hf:org/name") == untrained
    (how,) = seen
    wanted = how["allow_patterns"]
    kept = [name for name in files if any(Path(name).match(pattern) for pattern in wanted)]
    assert kept == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not how["bars"]


def test_a_model_without_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = type("Info", (), {"siblings": []})
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: info)
    with pytest.raises(RefsegError, match="has no weights on the hub"):
        hub.folder("hf:org/name")
    with pytest.raises(RefsegError, match=r"has no config\.json"):
        hub.config_file("hf:org/name")


def test_an_upload(cache: Path, monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, name, **how: calls.append((name, how)) or f"https://hub/{name}"
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **how: calls.append((how["repo_id"], how)))
    assert hub.upload(untrained, "hf:me/tiny", private=True) == "https://hub/me/tiny"
    (made, how), (uploaded, what) = calls
    assert (made, how) == ("me/tiny", {"private": True, "exist_ok": True})
    assert (uploaded, what["folder_path"]) == ("me/tiny", untrained)


def test_a_card_that_the_hub_refuses(cache: Path, monkeypatch: pytest.MonkeyPatch, untrained: Path) -> None:
    """Such as one with a licence that it does not know: no fault of the network."""

    def refuse(self: HfApi, **_: Any) -> None:
        raise ValueError('Invalid metadata in README.md.\n- "license" must be one of [apache-2.0, mit]')

    monkeypatch.setattr(HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **how: name)
    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    with pytest.raises(RefsegError) as caught:
        hub.upload(untrained, "hf:me/tiny")
    said = 'the hub refuses the model card: Invalid metadata in README.md. - "license" must be one of [apache-2.0, mit]'
    assert str(caught.value) == f"hf:me/tiny: {said}"


def test_quiet_silences_the_clients_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    assert main(["--quiet", "recipes", "list"]) == FOUND
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
