"""Checks of the plugin before vLLM starts: versions, flags, layouts. Needs no vLLM."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import visualglm
from visualglm import vllm_plugin
from visualglm.checkpoints.tensor_check import finite_weights
from visualglm.errors import CheckpointError, UsageError
from visualglm.vllm_plugin import versions

pytest.importorskip("starlette", reason="visualglm[serve] or vLLM brings it")
from safetensors.torch import load_file, save_file
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from visualglm.cli.serve import ServerAddress
from visualglm.serving.web.static_page import CONTENT_POLICY
from visualglm.vllm_plugin.server import (
    KEYS_VARIABLE,
    ORIGINS_VARIABLE,
    TRUSTED_HOSTS_VARIABLE,
    UNEXPLAINED,
    LoopbackHostMiddleware,
    VllmApiKeyMiddleware,
    VLLMServer,
    adapter_arguments,
    overrides,
)
from visualglm.vllm_plugin.supported_checkpoints import (
    LanguageAdapter,
    language_adapter,
    native_folder,
)

from .conftest import FOLDER

REFERENCE = Path(__file__).parents[1] / "reference"
Program = Callable[..., CompletedProcess[str]]


def server(**given: object) -> VLLMServer:
    return VLLMServer(**{"folder": Path("dir"), "name": "mini", "host": "127.0.0.1", "port": 1, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1", "0.33.0rc1"])
def test_a_version_in_the_window(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: version)
    assert versions.version_problem() is None


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "1.0"])
def test_a_version_outside_is_one_sentence(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: version)
    with pytest.raises(UsageError, match=f"vLLM {version} is installed, .* pip install") as found:
        versions.require_vllm()
    assert "\n" not in str(found.value)


def test_serving_without_vllm_is_one_sentence(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: None)
    done = program("serve", "--engine", "vllm")
    assert done.returncode == 2
    assert done.stderr.startswith("visualglm: vLLM is not installed") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--vllm-args", "--seed 1"], "--vllm-args"),
        (["--engine", "vllm", "--max-batch", "4"], "--max-batch"),
        (["--engine", "vllm", "--max-batch", "8"], "--max-batch"),
        (["--engine", "vllm", "--max-queue", "3"], "--max-queue"),
        (["--engine", "vllm", "--quantize", "4"], "--quantize"),
        (["--engine", "vllm", "--quantize-vision", "8"], "--quantize-vision"),
        (["--engine", "vllm", "--quantize-vocabulary", "8"], "--quantize-vocabulary"),
        (["--engine", "vllm", "--threads", "2"], "--threads"),
        (["--engine", "vllm", "--upstream-images"], "--upstream-images"),
        (["--engine", "vllm", "--vllm-args", "'"], "--vllm-args"),
        (["--engine", "vllm", "--host", "0.0.0.0"], "--host 0.0.0.0"),
    ],
)
def test_flags_of_the_other_engine_are_refused(program: Program, arguments: list[str], named: str) -> None:
    done = program("serve", *arguments)
    assert done.returncode == 2 and f"{named} " in done.stderr


def test_flags_that_vllm_takes_pass(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: None)
    done = program("serve", "--engine", "vllm", "--no-web", "--dtype", "float32", "--language", "zh", "--top-k", "3")
    assert done.stderr.startswith("visualglm: vLLM is not installed")


def test_arguments_are_safe_by_default() -> None:
    arguments = server().arguments()
    assert arguments[0] == "dir" and arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert arguments[arguments.index("--allowed-origins") + 1] == "[]"
    assert "--allowed-media-domains" not in arguments and "--allowed-local-media-path" not in arguments
    assert [name.rpartition(".")[2] for name in middleware(arguments)] == [
        "NoExplanation",
        "VllmSameOriginOnly",
        "LoopbackHostMiddleware",
    ]


def middleware(arguments: Sequence[str]) -> list[str]:
    """Return the middlewares of vLLM's server."""
    return [arguments[place + 1] for place, argument in enumerate(arguments) if argument == "--middleware"]


def test_keys_never_stand_in_the_arguments() -> None:
    arguments = server(keys=["secret"], trusted_hosts=("*",)).arguments()
    assert not any("secret" in argument for argument in arguments)
    assert [name.rpartition(".")[2] for name in middleware(arguments)] == [  # and any name may be used
        "NoExplanation",
        "VllmApiKeyMiddleware",
        "VllmSameOriginOnly",
    ]


def test_explanations_are_refused_in_one_sentence_behind_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, '["secret"]')
    app = Starlette(routes=[Route("/v1/models", lambda request: PlainTextResponse("hello"))])
    for name in middleware(server(keys=["secret"], trusted_hosts=("*",)).arguments()):
        app.add_middleware(pkgutil.resolve_name(name))
    client, key = TestClient(app), {"Authorization": "Bearer secret"}
    assert client.post("/v1/explain", json={}).status_code == 401
    reply = client.post("/v1/explain", json={}, headers=key)
    assert reply.status_code == 501 and reply.json()["error"]["message"] == UNEXPLAINED
    assert client.get("/v1/models", headers=key).text == "hello"


def test_a_named_origin_is_answered_before_keys_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = middleware(server(keys=["secret"], trusted_hosts=("*",), origins=["http://a.example"]).arguments())
    assert [name.rpartition(".")[2] for name in names[1:]] == ["VllmApiKeyMiddleware", "VllmCors", "VllmSameOriginOnly"]
    monkeypatch.setenv(KEYS_VARIABLE, '["secret"]')
    monkeypatch.setenv(ORIGINS_VARIABLE, "http://a.example")
    app = Starlette()
    for name in names:
        app.add_middleware(pkgutil.resolve_name(name))
    client = TestClient(app)
    asked = {"Access-Control-Request-Method": "POST", "Sec-Fetch-Site": "cross-site"}
    replies = [
        client.options("/v1/models", headers={**asked, "Origin": origin})
        for origin in ("http://a.example", "http://b.example")
    ]
    assert [reply.status_code for reply in replies] == [200, 403]
    assert client.get("/v1/models", headers={"Origin": "http://a.example"}).status_code == 401


def test_the_page_is_in_front_of_the_keys_and_behind_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    names = middleware(server(keys=["secret"], trusted_hosts=("*",), with_page=True).arguments())
    assert [name.rpartition(".")[2] for name in names[1:]] == [
        "VllmApiKeyMiddleware",
        "StaticPage",
        "VllmSameOriginOnly",
    ]
    monkeypatch.setenv(KEYS_VARIABLE, '["secret"]')
    app = Starlette()
    for name in names:
        app.add_middleware(pkgutil.resolve_name(name))
    client = TestClient(app)
    assert [client.get(path).status_code for path in ("/", "/web/main.js", "/v1/models")] == [200, 200, 401]
    assert client.get("/").headers["content-security-policy"] == CONTENT_POLICY
    assert client.get("/", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_key_is_wanted_beyond_v1_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM requires a key only below /v1, but also answers dialogues at /invocations."""
    monkeypatch.setenv(KEYS_VARIABLE, '["secret"]')
    paths = ("/invocations", "/v1/models", "/metrics", "/health")
    app = Starlette(routes=[Route(path, lambda request: PlainTextResponse("hello")) for path in paths])
    app.add_middleware(VllmApiKeyMiddleware)
    client = TestClient(app)
    assert [client.get(path).status_code for path in paths] == [401, 401, 401, 200]
    assert client.get("/invocations", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_without_the_keys_no_door_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    with pytest.raises(KeyError):
        VllmApiKeyMiddleware(Starlette())


@pytest.mark.parametrize(
    ("argument", "ours"),
    [
        ("--host 0.0.0.0", "--host"),
        ("--host=0.0.0.0", "--host"),
        ("--por 80", "--port"),
        ("--api-key=s3cret", "--api-key-file"),
        ("--api_key s3cret", "--api-key-file"),
        ("--middleware a.b", "--api-key-file"),
        ("--model other", "--model"),
        ("--override-generation-config.top_k 1", "--temperature"),
        ("--lora-modules a=b", "--adapter"),
        ("--config file.yaml", "--vllm-args"),
    ],
)
def test_what_our_flags_say_is_refused_behind_their_back(argument: str, ours: str) -> None:
    with pytest.raises(UsageError, match=f"is not allowed in --vllm-args. Use .*{ours}") as found:
        server(more=["--seed", "1", *argument.split()]).arguments()
    assert "s3cret" not in str(found.value)


def test_what_only_vllm_has_is_handed_on() -> None:
    more = ["--max-model-len", "512", "--tensor-parallel-size", "2", "-O3", "--"]
    assert server(more=more).arguments()[-len(more) :] == more


@pytest.mark.parametrize(
    ("host", "keys", "answered"),
    [
        ("127.0.0.1", (), {"localhost": 200, "evil.example": 400}),
        ("127.0.0.2", (), {"127.0.0.2:80": 200, "evil.example": 400}),
        ("0.0.0.0", (), {"models.example": 200}),
        ("127.0.0.1", ("key",), {"models.example": 200}),
    ],
)
def test_names_are_answered_as_by_our_own_server(
    host: str, keys: tuple[str, ...], answered: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = ServerAddress(host, 80, keys).trusted_hosts
    monkeypatch.setenv(TRUSTED_HOSTS_VARIABLE, " ".join(trusted))
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))])
    if any("LoopbackHostMiddleware" in argument for argument in server(trusted_hosts=trusted).arguments()):
        app.add_middleware(LoopbackHostMiddleware)
    client = TestClient(app)
    assert {name: client.get("/", headers={"Host": name}).status_code for name in answered} == answered


def test_sampling_becomes_vllms_defaults(tmp_path: Path) -> None:
    greedy = {"do_sample": False, "max_new_tokens": 9}
    assert overrides(greedy, tmp_path) == {"temperature": 0.0, "max_new_tokens": 9}
    assert overrides({"max_new_tokens": 9}, tmp_path) == {"max_new_tokens": 9}
    with pytest.raises(UsageError, match="--preset"):
        overrides({"preset": "hf"}, tmp_path)


def test_who_samples_without_a_temperature_has_the_checkpoints_or_one(tmp_path: Path) -> None:
    sampling = {"do_sample": True, "top_p": 0.5}
    assert overrides(sampling, tmp_path) == {"top_p": 0.5, "temperature": 1.0}
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7}')
    assert overrides(sampling, tmp_path) == {"top_p": 0.5, "temperature": 0.7}
    assert overrides({**sampling, "temperature": 1.5}, tmp_path) == {"top_p": 0.5, "temperature": 1.5}


@pytest.mark.parametrize("layout", ["hf", "sat"])
def test_other_layouts_are_to_be_converted(layout: str) -> None:
    with pytest.raises(CheckpointError, match="visualglm convert"):
        native_folder(REFERENCE / layout)


def test_a_vocabulary_in_8_bits_is_refused(quantized_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has a quantized transformer.word_embeddings, .* --quantize-vocabulary"):
        native_folder(quantized_folder)


def test_adapters_become_vllms_arguments() -> None:
    adapters = {"moon": LanguageAdapter(Path("a=b"), 16), "sun": LanguageAdapter(Path("c"), 20)}
    assert adapter_arguments(adapters) == [
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "32", "--lora-modules"),
        *('{"name": "moon", "path": "a=b"}', '{"name": "sun", "path": "c"}'),
    ]
    assert adapter_arguments({}) == []
    with pytest.raises(UsageError, match="rank 513"):
        adapter_arguments({"moon": LanguageAdapter(Path("a"), 513)})


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no adapter"):
        language_adapter(tmp_path, FOLDER)


def test_the_packed_folder_is_native() -> None:
    assert native_folder(visualglm.packed_model()) == Path(visualglm.packed_model())


def test_weights_that_are_not_finite_are_refused_before_vllm_starts(tmp_path: Path) -> None:
    tensors = load_file(FOLDER / "model.safetensors")
    name = max(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((FOLDER / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinite values"):
        native_folder(tmp_path)
    loaded = finite_weights(sorted(tensors.items()), tmp_path)
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinite values"):
        dict(loaded)


def test_vllm_finds_the_plugin() -> None:
    if not (found := entry_points(group="vllm.general_plugins", name="visualglm")):
        pytest.skip("the installed package is older than the plugin")
    assert next(iter(found)).load() is vllm_plugin.register
