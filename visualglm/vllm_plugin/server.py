"""Start vLLM's server for `visualglm serve --engine vllm`.

In: a native folder, an address, and our flags. Out: the command line of `vllm serve`, which `serve` runs in this
process. Pages of other sites get neither CORS headers nor answers. Without API keys only loopback host names are
answered, as in our own server. Origins that the operator names get both.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..checkpoints.load import GENERATION_CONFIG
from ..errors import UsageError
from ..files.json_object import read_object
from ..inference.sampling_arguments import normalize_sampling
from ..serving.error_responses import error_reply
from ..serving.middleware.allowed_origins import cors_settings
from ..serving.middleware.api_key import ApiKeyMiddleware
from ..serving.middleware.same_origin import LOOPBACK_NAMES, PROTECTION, SameOriginOnly
from ..serving.web.static_page import StaticPage
from .supported_checkpoints import LanguageAdapter

OVERRIDES = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
"""Sampling arguments for which vLLM has a default, named as in a generation config."""

OWNED_VLLM_ARGS = {
    "--host": "--host",
    "--port": "--port",
    "--uds": "--host and --port",
    "--api-key": "--api-key-file",
    "--middleware": "--host and --api-key-file",
    "--model": "--model",
    "--served-model-name": "--model",
    "--dtype": "--dtype",
    "--allowed-media-domains": "--allow-image-domain",
    "--allowed-origins": "--allow-origin",
    "--default-chat-template-kwargs": "--language",
    "--override-generation-config": "--temperature, --greedy and the like",
    "--lora-modules": "--adapter",
    "--config": "--vllm-args with the arguments of that file",
}
"""vLLM's arguments that our own flags set, with those flags. `--config` names a file that could set any of them."""

TRUSTED_HOSTS_VARIABLE, KEYS_VARIABLE = "VISUALGLM_TRUSTED_HOSTS", "VISUALGLM_KEYS"
ORIGINS_VARIABLE = "VISUALGLM_ORIGINS"
"""Environment variables with the middlewares' settings: vLLM constructs a middleware without arguments."""

UNEXPLAINED = "Explanations are not available with --engine vllm. Start the server with --engine transformers."

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for --max-lora-rank."""


class LoopbackHostMiddleware(TrustedHostMiddleware):
    """Answers only requests whose Host header is trusted, which prevents DNS rebinding by other sites."""

    def __init__(self, app: ASGIApp) -> None:
        names = os.environ.get(TRUSTED_HOSTS_VARIABLE, " ".join(LOOPBACK_NAMES)).split()
        super().__init__(app, allowed_hosts=names, www_redirect=False)


class VllmApiKeyMiddleware(ApiKeyMiddleware):
    """Requires a key at the same paths as our own server; vLLM's check skips some, such as `/invocations`."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, json.loads(os.environ[KEYS_VARIABLE]))  # fails if unset, rather than allow everyone


class VllmSameOriginOnly(SameOriginOnly):
    """`SameOriginOnly` without our page's content policy: vLLM's `/docs` loads scripts from another site."""

    protection = {name: value for name, value in PROTECTION.items() if name != "Content-Security-Policy"}

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, os.environ.get(ORIGINS_VARIABLE, "").split())


class VllmCors(CORSMiddleware):
    """Answers the preflight requests of the named origins before a key is required, which vLLM's own does not."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, **cors_settings(os.environ.get(ORIGINS_VARIABLE, "").split()))


class NoExplanation:
    """Answers `/v1/explain` with what to do: vLLM returns neither attention nor gradients."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/explain":
            return await self.app(scope, receive, send)
        return await error_reply(501, UNEXPLAINED, code="not_available")(scope, receive, send)


@dataclass(frozen=True)
class VLLMServer:
    """Settings of a vLLM server.

    Attributes:
        trusted_hosts: Host headers to answer when there are no keys; `*` answers all.
        origins: other sites whose pages may send requests.
        image_hosts: hosts from which image URLs may be fetched.
        sampling: default sampling arguments, under transformers' names.
        more: arguments passed to vLLM unchanged.
        with_page: also serve the web page.
    """

    folder: Path
    name: str
    host: str
    port: int
    keys: Sequence[str] = ()
    trusted_hosts: Sequence[str] = LOOPBACK_NAMES
    origins: Sequence[str] = ()
    image_hosts: Sequence[str] = ()
    dtype: str = "auto"
    language: str = "auto"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, LanguageAdapter] = field(default_factory=dict)
    more: Sequence[str] = ()
    with_page: bool = False

    def arguments(self) -> list[str]:
        """Build the command line of `vllm serve`, without the keys.

        Raises:
            UsageError: vLLM has no default for a sampling argument, or `more` sets what a flag of ours sets.
        """
        reject_owned_args(self.more)
        arguments = [str(self.folder), "--served-model-name", self.name, "--host", self.host, "--port", str(self.port)]
        arguments += ["--dtype", self.dtype, "--allowed-origins", "[]"]
        if self.image_hosts:
            arguments += ["--allowed-media-domains", *self.image_hosts]
        if self.language != "auto":
            arguments += ["--default-chat-template-kwargs", json.dumps({"language": self.language})]
        if self.sampling:
            arguments += ["--override-generation-config", json.dumps(overrides(self.sampling, self.folder))]
        arguments += adapter_arguments(self.adapters)
        middlewares: list[type] = [NoExplanation]
        middlewares += [VllmApiKeyMiddleware] if self.keys else []
        middlewares += [StaticPage] if self.with_page else []
        middlewares += [VllmCors] if self.origins else []
        middlewares.append(VllmSameOriginOnly)
        if not self.keys and "*" not in self.trusted_hosts:
            middlewares.append(LoopbackHostMiddleware)
        for middleware in middlewares:
            arguments += ["--middleware", f"{middleware.__module__}.{middleware.__qualname__}"]
        return [*arguments, *self.more]


def adapter_arguments(adapters: Mapping[str, LanguageAdapter]) -> list[str]:
    """Adapters by name -> vLLM's LoRA arguments; one batch may use all adapters at once.

    Raises:
        UsageError: a rank is higher than vLLM supports.
    """
    if not adapters:
        return []
    name, highest = max(adapters.items(), key=lambda item: item[1].rank)
    rank = next((rank for rank in LORA_RANKS if rank >= highest.rank), None)
    if rank is None:
        raise UsageError(
            f"The adapter {name} has rank {highest.rank}, but vLLM supports at most {LORA_RANKS[-1]}. Merge it with "
            "`visualglm merge` and serve the merged model, or use --engine transformers."
        )
    modules = [json.dumps({"name": name, "path": str(adapter.folder)}) for name, adapter in adapters.items()]
    counts = ["--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
    return ["--enable-lora", *counts, "--lora-modules", *modules]


def reject_owned_args(more: Sequence[str]) -> None:
    """Reject arguments of vLLM that a flag of ours sets: they would override it and bypass the checks of its value.

    argparse accepts abbreviated names, and vLLM accepts `_` for `-`.

    Raises:
        UsageError: one of `more` is such an argument.
    """
    for word in more:
        name = re.split("[=.]", word, maxsplit=1)[0].replace("_", "-")
        owned = next((argument for argument in OWNED_VLLM_ARGS if len(name) > 2 and argument.startswith(name)), None)
        if owned is not None:
            raise UsageError(f"{owned} is not allowed in --vllm-args. Use {OWNED_VLLM_ARGS[owned]}.")


def overrides(sampling: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Convert sampling arguments to vLLM's defaults.

    Greedy decoding becomes temperature 0. Sampling without a temperature takes the checkpoint's, else 1.

    Raises:
        UsageError: vLLM has no default for an argument.
    """
    sampling = normalize_sampling(sampling)
    unknown = [name for name in sampling if name not in (*OVERRIDES, "do_sample")]
    if unknown:
        raise UsageError(
            f"vLLM has no default for --{unknown[0].replace('_', '-')}. Send it with each request, or remove it."
        )
    known = {name: value for name, value in sampling.items() if name in OVERRIDES}
    if sampling.get("do_sample") is False:
        return {**known, "temperature": 0.0}
    if sampling.get("do_sample") and "temperature" not in known:  # otherwise a greedy checkpoint would stay greedy
        file = folder / GENERATION_CONFIG
        known["temperature"] = (read_object(file) if file.exists() else {}).get("temperature") or 1.0
    return known


def require_plugin() -> None:
    """Raise `UsageError` if the installed package has no vLLM entry point, as with an outdated installation."""
    if not any(point.name == "visualglm" for point in entry_points(group="vllm.general_plugins")):
        raise UsageError("vLLM cannot find VisualGLM's plugin. Install it again, from its checkout: pip install .")


def serve(server: VLLMServer) -> None:
    """Run vLLM's server until SIGTERM or Ctrl-C.

    Keys are passed by environment and attribute, so that they do not appear in the process list.

    Raises:
        UsageError: vLLM cannot find the plugin, or flags contradict each other.
    """
    command_line = server.arguments()
    require_plugin()
    os.environ[TRUSTED_HOSTS_VARIABLE] = " ".join(server.trusted_hosts)
    os.environ[ORIGINS_VARIABLE] = " ".join(server.origins)
    os.environ[KEYS_VARIABLE] = json.dumps(list(server.keys))
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(command_line)
    arguments.api_key = list(server.keys) or None
    command = ServeSubcommand()
    command.validate(arguments)
    command.cmd(arguments)
