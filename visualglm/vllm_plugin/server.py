"""vllm_plugin/server: `visualglm serve --engine vllm`: our flags as arguments of vLLM's own server, and its start.

In: a native folder and where to listen. Out: arguments that `vllm serve` takes too; `serve` runs it in this process.
Other sites' pages get no CORS headers and no answers. Without keys only loopback's own names are answered, as in our
own server.
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

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from ..checkpoints.load import GENERATION_CONFIG
from ..checkpoints.weights_file import read_json
from ..errors import UsageError
from ..serving.browsers import PROTECTION, SameOriginOnly
from ..serving.guard import LOOPBACK_NAMES, KeyGuard
from .folders import LanguageAdapter

OVERRIDES = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
"""Sampling arguments that vLLM knows, under the names of a generation config."""

SAID_BY_OURS = {
    "--host": "--host",
    "--port": "--port",
    "--uds": "--host and --port",
    "--api-key": "--api-key-file",
    "--middleware": "--host and --api-key-file",
    "--model": "--model",
    "--served-model-name": "--model",
    "--dtype": "--dtype",
    "--allowed-media-domains": "--allow-image-domain",
    "--default-chat-template-kwargs": "--language",
    "--override-generation-config": "--temperature, --greedy and the like",
    "--lora-modules": "--adapter",
    "--config": "--vllm-args, with the arguments that stand in the file",
}
"""vLLM's arguments, and the flags of ours that say the same; `--config` names a file that could say any of them."""

TRUSTED, KEYS = "VISUALGLM_TRUSTED_HOSTS", "VISUALGLM_KEYS"
"""The variables in which vLLM's processes find the names to answer, and the keys: it makes a middleware from its class
alone."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


class LoopbackNames(TrustedHostMiddleware):
    """Answers under this machine's own names only, so that no foreign page reaches the server by a name of its own."""

    def __init__(self, app: ASGIApp) -> None:
        names = os.environ.get(TRUSTED, " ".join(LOOPBACK_NAMES)).split()
        super().__init__(app, allowed_hosts=names, www_redirect=False)


class KeyEverywhere(KeyGuard):
    """Asks for a key wherever our own server does; vLLM does so below `/v1` and the like, and not at `/invocations`."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, json.loads(os.environ[KEYS]))  # an error where it is missing, never an open door


class VllmSameOriginOnly(SameOriginOnly):
    """Without our page's content policy: vLLM's `/docs` loads its scripts from another site."""

    protection = {name: value for name, value in PROTECTION.items() if name != "Content-Security-Policy"}


@dataclass(frozen=True)
class VLLMServer:
    """What to serve, and to whom. `trusted_hosts`: Host headers to answer; `sampling` holds transformers' names; `more`
    goes to vLLM as it is."""

    folder: Path
    name: str
    host: str
    port: int
    keys: Sequence[str] = ()
    trusted_hosts: Sequence[str] = LOOPBACK_NAMES
    image_hosts: Sequence[str] = ()
    dtype: str = "auto"
    language: str = "auto"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, LanguageAdapter] = field(default_factory=dict)
    more: Sequence[str] = ()

    def arguments(self) -> list[str]:
        """The command line of `vllm serve`, keys left out.

        Raises:
            UsageError: a sampling argument that vLLM has no default for, or `more` says what a flag of ours says.
        """
        refuse_said_by_ours(self.more)
        arguments = [str(self.folder), "--served-model-name", self.name, "--host", self.host, "--port", str(self.port)]
        arguments += ["--dtype", self.dtype, "--allowed-origins", "[]"]
        if self.image_hosts:
            arguments += ["--allowed-media-domains", *self.image_hosts]
        if self.language != "auto":
            arguments += ["--default-chat-template-kwargs", json.dumps({"language": self.language})]
        if self.sampling:
            arguments += ["--override-generation-config", json.dumps(overrides(self.sampling, self.folder))]
        arguments += adapter_arguments(self.adapters)
        guard = KeyEverywhere if self.keys else LoopbackNames
        guards = [VllmSameOriginOnly, guard] if self.keys or "*" not in self.trusted_hosts else [VllmSameOriginOnly]
        for middleware in guards:
            arguments += ["--middleware", f"{middleware.__module__}.{middleware.__qualname__}"]
        return [*arguments, *self.more]


def adapter_arguments(adapters: Mapping[str, LanguageAdapter]) -> list[str]:
    """Adapters by name -> what makes vLLM lay them on, all of them in one batch if they are asked for.

    Raises:
        UsageError: a rank is too high for vLLM.
    """
    if not adapters:
        return []
    name, highest = max(adapters.items(), key=lambda item: item[1].rank)
    rank = next((rank for rank in RANKS if rank >= highest.rank), None)
    if rank is None:
        raise UsageError(
            f"the adapter {name} has rank {highest.rank}, and vLLM takes {RANKS[-1]} at most: make one model with "
            "`visualglm merge` and serve that, or use --engine transformers."
        )
    modules = [json.dumps({"name": name, "path": str(adapter.folder)}) for name, adapter in adapters.items()]
    counts = ["--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
    return ["--enable-lora", *counts, "--lora-modules", *modules]


def refuse_said_by_ours(more: Sequence[str]) -> None:
    """Raises `UsageError` where one of vLLM's arguments says what a flag of ours says: the last word would count, and
    the checks of addresses and keys would not know of it. argparse takes shortened names, and vLLM `_` for `-`."""
    for word in more:
        name = re.split("[=.]", word, maxsplit=1)[0].replace("_", "-")
        said = next((theirs for theirs in SAID_BY_OURS if len(name) > 2 and theirs.startswith(name)), None)
        if said is not None:
            raise UsageError(f"{said} may not stand in --vllm-args: give {SAID_BY_OURS[said]}.")


def overrides(sampling: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Sampling arguments -> vLLM's defaults; greedy is temperature 0, and who samples has the checkpoint's, or 1.

    Raises:
        UsageError: vLLM has no default of that name.
    """
    unknown = [name for name in sampling if name not in (*OVERRIDES, "do_sample")]
    if unknown:
        raise UsageError(
            f"--{unknown[0].replace('_', '-')} is nothing that vLLM has a default for: send it with each request, or "
            "leave it out."
        )
    known = {name: value for name, value in sampling.items() if name in OVERRIDES}
    if sampling.get("do_sample") is False:
        return {**known, "temperature": 0.0}
    if sampling.get("do_sample") and "temperature" not in known:  # else a greedy checkpoint's default would stay
        file = folder / GENERATION_CONFIG
        known["temperature"] = (read_json(file) if file.exists() else {}).get("temperature") or 1.0
    return known


def require_plugin() -> None:
    """Raises `UsageError` where vLLM cannot find the plugin: a package installed before it had one."""
    if not any(found.name == "visualglm" for found in entry_points(group="vllm.general_plugins")):
        raise UsageError("vLLM does not find VisualGLM's plugin: install the package again, pip install visualglm.")


def serve(server: VLLMServer) -> None:
    """Runs vLLM's server until SIGTERM or Ctrl-C. Keys go in by a way that no list of processes shows.

    Raises:
        UsageError: vLLM does not find the plugin, or flags contradict each other.
    """
    given = server.arguments()
    require_plugin()
    os.environ[TRUSTED], os.environ[KEYS] = " ".join(server.trusted_hosts), json.dumps(list(server.keys))
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    arguments.api_key = list(server.keys) or None
    command = ServeSubcommand()
    command.validate(arguments)
    command.cmd(arguments)
