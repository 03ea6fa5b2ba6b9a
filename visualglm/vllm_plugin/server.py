"""vllm_plugin/server: `visualglm serve --engine vllm`: our flags as arguments of vLLM's own server, and its start.

In: a native folder and where to listen. Out: arguments that `vllm serve` takes too; `serve` runs it in this process.
Other sites' pages get no CORS headers, and without keys only loopback's own names are answered, as in our own server.
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

from ..checkpoints import local_folder
from ..checkpoints.recognise import recognise
from ..errors import CheckpointError, UsageError
from ..serving.guard import LOOPBACK_NAMES

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
    "--config": "--vllm-args, with the arguments that stand in the file",
}
"""vLLM's arguments, and the flags of ours that say the same; `--config` names a file that could say any of them."""

TRUSTED = "VISUALGLM_TRUSTED_HOSTS"
"""The variable in which vLLM's processes find the names to answer: it makes a middleware from its class alone."""


class LoopbackNames(TrustedHostMiddleware):
    """Answers under this machine's own names only, so that no foreign page reaches the server by a name of its own."""

    def __init__(self, app: ASGIApp) -> None:
        names = os.environ.get(TRUSTED, " ".join(LOOPBACK_NAMES)).split()
        super().__init__(app, allowed_hosts=names, www_redirect=False)


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
            arguments += ["--override-generation-config", json.dumps(overrides(self.sampling))]
        if "*" not in self.trusted_hosts:
            arguments += ["--middleware", f"{LoopbackNames.__module__}.{LoopbackNames.__qualname__}"]
        return [*arguments, *self.more]


def refuse_said_by_ours(more: Sequence[str]) -> None:
    """Raises `UsageError` where one of vLLM's arguments says what a flag of ours says: the last word would count, and
    the checks of addresses and keys would not know of it. argparse takes shortened names, and vLLM `_` for `-`."""
    for word in more:
        name = re.split("[=.]", word, maxsplit=1)[0].replace("_", "-")
        said = next((theirs for theirs in SAID_BY_OURS if len(name) > 2 and theirs.startswith(name)), None)
        if said is not None:
            raise UsageError(f"{said} may not stand in --vllm-args: give {SAID_BY_OURS[said]}.")


def overrides(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling arguments -> vLLM's defaults; greedy is temperature 0.

    Raises:
        UsageError: vLLM has no default of that name.
    """
    greedy = {"temperature": 0.0} if sampling.get("do_sample") is False else {}
    unknown = [name for name in sampling if name not in (*OVERRIDES, "do_sample")]
    if unknown:
        raise UsageError(
            f"--{unknown[0].replace('_', '-')} is nothing that vLLM has a default for: send it with each request, or "
            "leave it out."
        )
    return {**{name: value for name, value in sampling.items() if name in OVERRIDES}, **greedy}


def native_folder(model: str | Path) -> Path:
    """A folder or hub id -> the folder, if it is one that vLLM can open with the plugin.

    Raises:
        CheckpointError: it is upstream's or sat's, or no checkpoint.
    """
    folder, layout = recognise(local_folder(model))
    if layout != "native":
        raise CheckpointError(
            f"{folder} has the {layout} layout, and vLLM opens our own only: run `visualglm convert {folder} NEW` and "
            "serve the new folder."
        )
    return folder


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
    os.environ[TRUSTED] = " ".join(server.trusted_hosts)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    arguments.api_key = list(server.keys) or None
    command = ServeSubcommand()
    command.validate(arguments)
    command.cmd(arguments)
