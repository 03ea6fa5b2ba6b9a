"""`visualglm serve`: OpenAI's API, upstream's `POST /` and the web page, in one process."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import UsageError, require_extra
from ..serving.limits import EngineLimits
from . import options

if TYPE_CHECKING:
    from ..serving.app import ServerSettings

SERVE_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "gradio")
DAY = 24 * 60 * 60.0
"""Seconds."""
SHUTDOWN_GRACE = 10
"""Seconds beyond the time limit until a connection that does not end is cut on shutdown."""

Host = Annotated[str, typer.Option(help="Address to listen on; anything but loopback wants --api-key-file.")]
Port = Annotated[int, typer.Option(min=1, max=65535)]
KeyFile = Annotated[Path | None, typer.Option(help="One key a line; everything but /health then asks for one.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback without a key all the same.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Requests that may wait; more get 503.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Requests answered at once.")]
AdapterFlags = Annotated[
    list[str] | None,
    typer.Option(
        help="What `visualglm finetune` trained, as NAME=DIR (repeatable): requests choose by name, and the first one "
        "answers where they do not."
    ),
]
TimeLimit = Annotated[float, typer.Option(min=1, max=DAY, help="Seconds a request may take, decoding included.")]

VLLM_TAKES = {
    *("engine", "vllm_args", "host", "port", "api_key_file", "insecure", "no_web", "allow_image_domain"),
    *("model", "adapter", "dtype", "language", "greedy", *options.SAMPLING),
}
"""What is handed on with --engine vllm, or true of it anyway; each other flag is our own engine's."""


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens, and who may come."""

    host: str
    port: int
    keys: tuple[str, ...]

    @property
    def trusted_hosts(self) -> tuple[str, ...]:
        """On loopback without keys, only loopback's own names: a foreign page may not reach it by a name of its own."""
        from ..serving.middleware import LOOPBACK_NAMES

        if self.keys or not is_loopback(self.host):
            return ("*",)
        return (*LOOPBACK_NAMES, self.host)


@options.with_flags
def serve(
    context: typer.Context,
    flags: options.Flags,
    adapter: AdapterFlags = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key_file: KeyFile = None,
    insecure: Insecure = False,
    no_web: Annotated[bool, typer.Option("--no-web", help="The APIs without the page.")] = False,
    allow_image_domain: Annotated[
        list[str] | None,
        typer.Option(help="A host that image_url may name (repeatable); without one, none is fetched."),
    ] = None,
    max_queue: MaxQueue = EngineLimits.max_queue,
    max_batch: MaxBatch = EngineLimits.max_batch,
    time_limit: TimeLimit = EngineLimits.time_limit,
    engine: Annotated[
        Literal["transformers", "vllm"], typer.Option(help="What generates; vllm: its own server, OpenAI's API alone.")
    ] = "transformers",
    vllm_args: Annotated[str, typer.Option(help="More arguments of `vllm serve`, as one string.")] = "",
) -> None:
    """OpenAI's API, upstream's POST / and the web page. / 提供 OpenAI 接口、上游接口与网页。"""
    if engine == "vllm":
        refuse_ours(context)
        listening = ServerAddress(host, port, read_keys(api_key_file))
        require_key_beyond_loopback(listening, insecure)
        serve_vllm(flags, listening, allow_image_domain or (), adapter or (), split_args(vllm_args))
        return
    if vllm_args:
        raise UsageError("--vllm-args has no meaning without --engine vllm: leave it out.")
    listening = listening_at(host, port, api_key_file, insecure)
    from ..serving.app import ServerSettings
    from ..serving.model_ids import parse_adapter_flags
    from ..serving.url_fetcher import ImageFetcher

    hosts = tuple(allow_image_domain or ())
    ImageFetcher(hosts)  # a mistaken host is said before a model is loaded
    settings = ServerSettings(
        name=served_name(flags.model),
        keys=listening.keys,
        image_hosts=hosts,
        trusted_hosts=listening.trusted_hosts,
        with_page=not no_web,
        limits=EngineLimits(max_queue, max_batch, time_limit),
    )
    run_server(flags, settings, listening, parse_adapter_flags(adapter or (), settings.name))


def serve_vllm(
    flags: options.Flags,
    listening: ServerAddress,
    image_hosts: Sequence[str],
    adapters: Sequence[str],
    more: Sequence[str],
) -> None:
    """vLLM's own server with our plugin, until SIGTERM or Ctrl-C.

    Raises:
        UsageError: vLLM is missing or of another version, or a flag or an adapter is nothing for it.
        CheckpointError: the model is in no layout that vLLM opens, or an adapter was trained on another.
    """
    from ..vllm_plugin.versions import require_vllm

    require_vllm()
    from ..conversation import packed_model
    from ..serving.model_ids import parse_adapter_flags
    from ..vllm_plugin.server import VLLMServer, serve
    from ..vllm_plugin.supported_checkpoints import language_adapters, native_folder

    name, folder = served_name(flags.model), native_folder(flags.model or packed_model())
    serve(
        VLLMServer(
            folder=folder,
            name=name,
            host=listening.host,
            port=listening.port,
            keys=listening.keys,
            trusted_hosts=listening.trusted_hosts,
            image_hosts=image_hosts,
            dtype=flags.dtype,
            language=flags.language,
            sampling=flags.sampling(),
            adapters=language_adapters(parse_adapter_flags(adapters, name), folder),
            more=more,
        )
    )


def refuse_ours(context: typer.Context) -> None:
    """Raises `UsageError` for a flag on the command line that vLLM's server has nothing for, or another name."""
    given = (name for name in context.params if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT")
    ours = next((name for name in given if name not in VLLM_TAKES), None)
    if ours is not None:
        raise UsageError(
            f"--{ours.replace('_', '-')} belongs to --engine transformers: leave it out, and give vLLM's own flags "
            "with --vllm-args."
        )


def split_args(arguments: str) -> list[str]:
    """--vllm-args as a shell would split it.

    Raises:
        UsageError: a quotation is left open.
    """
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"--vllm-args {arguments} cannot be read ({error}): close each quotation.") from error


def run_server(
    flags: options.Flags, settings: ServerSettings, listening: ServerAddress, adapters: dict[str, str]
) -> None:
    """Opens the model and lays on its adapters (places by name); answers until SIGTERM or Ctrl-C, and finishes answers.

    Raises:
        UsageError: the address cannot be listened on.
    """
    import dataclasses
    import gc

    from ..serving.app import create_app
    from ..serving.listener import connection_limits, make_server

    limits = connection_limits()
    settings = dataclasses.replace(
        settings, defaults=flags.sampling(), language=flags.language, request_limit=limits.requests
    )
    model = flags.open_model()
    for name, place in adapters.items():
        model.add_adapter(place, name)
    app = create_app(model, settings)
    grace = int(settings.limits.time_limit) + SHUTDOWN_GRACE
    server = make_server(app, limits, listening.host, listening.port, grace)
    gc.freeze()  # the model and its libraries are never garbage, and looking through them stops the event loop for long
    what = " and ".join(["APIs"] * settings.with_api + ["page"] * settings.with_page)
    typer.echo(f"{settings.name}: {what} at {_address(listening)}", err=True)
    try:
        server.run()
    except SystemExit as error:
        if server.started:
            raise
        place = f"{listening.host}:{listening.port}"
        raise UsageError(f"{place} cannot be listened on: choose another --host or --port.") from error


def _address(listening: ServerAddress) -> str:
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    return f"http://{host}:{listening.port}"


def listening_at(host: str, port: int, key_file: Path | None, insecure: bool) -> ServerAddress:
    """Where a server may listen.

    Raises:
        UsageError: the packages of `[serve]` are missing, the keys cannot be read, or others could come in without one.
    """
    require_extra("serve", "serving", *SERVE_PACKAGES)
    listening = ServerAddress(host, port, read_keys(key_file))
    require_key_beyond_loopback(listening, insecure)
    return listening


def read_keys(file: Path | None) -> tuple[str, ...]:
    """The keys in a file, one a line.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    if file is None:
        return ()
    try:
        keys = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {file} cannot be read: check the path and its permissions.") from error
    if not keys or not all(key.isascii() and key.isprintable() for key in keys):
        raise UsageError(f"--api-key-file {file} holds no key: write one a line, in ASCII.")
    return keys


def require_key_beyond_loopback(listening: ServerAddress, insecure: bool) -> None:
    """Raises `UsageError` for an address beyond this machine without a key."""
    if not (listening.keys or insecure or is_loopback(listening.host)):
        raise UsageError(
            f"--host {listening.host} lets others in: give --api-key-file, or --insecure if that is meant."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def served_name(model: str | None) -> str:
    """The model's id for clients: a hub id as it is, of a folder its name, never its path."""
    if model is None:
        return "visualglm-mini"
    return Path(model).resolve().name or "visualglm" if Path(model).exists() else model
