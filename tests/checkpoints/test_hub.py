"""Hub ids: downloaded only when asked for by name, taken from the cache without a network, refused in one sentence."""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from transformers import AutoModel, AutoTokenizer

from visualglm.errors import CheckpointError
from visualglm.hub.local_folder import local_folder
from visualglm.model import VisualGLMForConditionalGeneration as Model

NAME = "THUDM/visualglm-6b"


class FakeHub:
    """Stands in for `snapshot_download`: copies what the patterns allow, remembers what was asked."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache, self.calls = repository, cache, []

    def __call__(self, name: str, *, allow_patterns: list[str], **options: Any) -> str:
        self.calls.append((name, options))
        for file in (path for path in self.repository.rglob("*") if path.is_file()):
            relative = file.relative_to(self.repository)
            if any(fnmatch.fnmatch(str(relative), pattern) for pattern in allow_patterns):
                (self.cache / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self.cache / relative)
        return str(self.cache)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], FakeHub]:
    def serve(repository: Path) -> FakeHub:
        server = FakeHub(repository, tmp_path / "snapshot")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", server)
        return server

    return serve


def test_only_weights_configuration_and_vocabulary(hf: Path, fake: Callable[[Path], FakeHub]) -> None:
    (hf / "modeling_chatglm.py").write_text("raise RuntimeError")
    (hf / "flax_model.msgpack").write_text("x")
    server = fake(hf)
    model = Model.from_pretrained(NAME, revision="v1", token="t", cache_dir=None, trust_remote_code=True)
    assert model.name_or_path == NAME and {name for name, _ in server.calls} == {NAME}
    assert all(options == {"revision": "v1", "token": "t"} for _, options in server.calls)
    wanted = {path.name for path in hf.iterdir()} - {"modeling_chatglm.py", "flax_model.msgpack"}
    assert {path.name for path in server.cache.iterdir()} == wanted


def test_not_both_kinds_of_weights(hf: Path, fake: Callable[[Path], FakeHub]) -> None:
    (hf / "model.safetensors.index.json").write_text("{}")
    (hf / "model-00001-of-00001.safetensors").write_text("x")
    cache = fake(hf).cache
    local_folder(NAME)
    assert list(cache.glob("*.safetensors")) and not list(cache.glob("*.bin"))


def test_sat_and_unsharded_repositories(sat: Path, odd: Path, fake: Callable[[Path], FakeHub]) -> None:
    for repository in (sat, odd):
        server = fake(repository)
        Model.from_pretrained("owner/other")
        shutil.rmtree(server.cache)


def test_a_folder_is_never_asked_for(
    hf: Path, fake: Callable[[Path], FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fake(hf)
    monkeypatch.chdir(hf.parent)
    assert local_folder("hf") == Path("hf")
    for name in ("hf/nothing", "./THUDM/x", "/THUDM/x", "visualglm-6b", "a/b/c", "..", "~/THUDM"):
        if not Path(name).exists():
            with pytest.raises(CheckpointError, match="does not exist"):
                local_folder(name)
    assert server.calls == []


@pytest.fixture
def cache(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of the hub as its client writes it, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--THUDM--visualglm-6b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    shutil.copytree(hf, repository / "snapshots" / ("0" * 40))
    return tmp_path / "cache"


def test_the_cache_is_enough(cache: Path) -> None:
    model = Model.from_pretrained(NAME, cache_dir=cache)
    assert model.name_or_path == NAME
    assert Model.from_pretrained(NAME, cache_dir=cache, local_files_only=True).dtype == model.dtype


def test_the_cache_is_enough_for_the_auto_classes(cache: Path) -> None:
    import visualglm.auto  # noqa: F401

    model = AutoModel.from_pretrained(NAME, cache_dir=cache, trust_remote_code=True)
    assert type(model) is Model and model.name_or_path == NAME
    tokenizer = AutoTokenizer.from_pretrained(NAME, cache_dir=cache, trust_remote_code=True)
    assert type(tokenizer).__module__ == "visualglm.preprocessing.tokenizer"


def test_offline_and_not_in_the_cache(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not in the local cache and the hub cannot be reached\. Download"):
        Model.from_pretrained("THUDM/other", cache_dir=cache)


def test_half_a_download_in_the_cache(cache: Path) -> None:
    next(cache.rglob("pytorch_model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="lacks pytorch_model-00002-of-00003"):
        Model.from_pretrained(NAME, cache_dir=cache)


@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "RevisionNotFoundError"])
def test_what_the_hub_does_not_have(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise (cls := getattr(errors, kind)).__new__(cls)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    sentence = {"RepositoryNotFoundError": "neither a folder here nor a model", "RevisionNotFoundError": "no revision"}
    with pytest.raises(CheckpointError, match=sentence[kind]):
        local_folder(NAME, revision="v9")


@pytest.mark.parametrize("name", ["a/b--c", "a/b.git", "a/b..c", "a/" + "b" * 100])
def test_names_that_no_hub_id_can_have(name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a folder here, and no hub id can be spelled so"):
        local_folder(name)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise OSError(number, os.strerror(number), "/cache/x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=rf"cannot be stored in the cache \({os.strerror(number)}: /cache/x\)"):
        local_folder(NAME)


def test_a_hub_that_answers_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    failure = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    failure.args = ("500 Server Error.\nRequest ID: 1",)
    monkeypatch.setattr(errors.HfHubHTTPError, "__str__", lambda self: str(self.args[0]))

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise errors.LocalEntryNotFoundError("Got: x") from failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        CheckpointError, match=r"The hub did not provide THUDM/visualglm-6b \(500 Server Error\)\. Try again"
    ):
        local_folder(NAME)


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise errors.HTTPError("proxy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        local_folder(NAME)
