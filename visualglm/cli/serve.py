"""`visualglm serve`: serve OpenAI's API, upstream's `POST /` and the web page from one process."""

from __future__ import annotations

import errno
import ipaddress
import shlex
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import UsageError, require_extra
from ..serving.engine.limits import EngineLimits
from ..serving.middleware.allowed_origins import parse_origins
from . import options
from .grouped_help import model_option, performance_option, server_option
from .model_name import is_packed, print_notice, served_name

if TYPE_CHECKING:
    import uvicorn

SERVE_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
DAY = 24 * 60 * 60.0
"""Seconds."""
SHUTDOWN_GRACE = 10
"""Seconds beyond the time limit after which open connections are closed on shutdown."""

Host = Annotated[
    str,
    server_option(metavar="ADDRESS", help="Address to listen on. Other than loopback, it requires --api-key-file."),
]
Port = Annotated[int, server_option(min=1, max=65535, metavar="PORT", help="Port to listen on.")]
KeyFile = Annotated[
    Path | None,
    server_option(
        metavar="FILE", help="API keys, one per line; all but /health and the page's files then require one."
    ),
]
Origins = Annotated[
    list[str] | None,
    server_option(
        metavar="ORIGIN",
        help="Let pages of this origin send requests (repeatable), e.g. http://localhost:3000. Default: none.",
    ),
]
Insecure = Annotated[bool, server_option("--insecure", help="Allow a public address without an API key.")]
MaxQueue = Annotated[
    int, server_option(min=1, metavar="N", help="Maximum waiting requests; further ones get status 503.")
]
MaxBatch = Annotated[int, server_option(min=1, metavar="N", help="Maximum requests answered in one batch.")]
AdapterFlags = Annotated[
    list[str] | None,
    model_option(
        metavar="NAME=DIR",
        help="Adapter from `visualglm finetune` (repeatable). Requests select it by name; the first is the default.",
    ),
]
TimeLimit = Annotated[
    float, server_option(min=1, max=DAY, metavar="SECONDS", help="Time limit of a request, image decoding included.")
]

VLLM_FLAGS = {
    *("engine", "vllm_args", "host", "port", "api_key_file", "insecure", "no_web", "allow_image_domain"),
    "allow_origin",
    *("model", "adapter", "dtype", "language", "greedy", *options.SAMPLING_FLAGS),
}
"""Parameters that --engine vllm accepts: passed on to vLLM, or true of it anyway."""


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens, the API keys that it accepts, and the other sites whose pages it answers."""

    host: str
    port: int
    keys: tuple[str, ...]
    origins: tuple[str, ...] = ()

    @property
    def trusted_hosts(self) -> tuple[str, ...]:
        """Return the Host names to accept. On loopback without keys only its own names, against DNS rebinding."""
        from ..serving.middleware.same_origin import LOOPBACK_NAMES

        if self.keys or not is_loopback(self.host):
            return ("*",)
        return (*LOOPBACK_NAMES, self.host)


@dataclass(frozen=True)
class ServerFlags(options.OptionGroup):
    """Values of the options that `serve` and `web` share."""

    adapter: AdapterFlags = None
    host: Host = "127.0.0.1"
    port: Port = 8080
    api_key_file: KeyFile = None
    insecure: Insecure = False
    allow_origin: Origins = None
    max_queue: MaxQueue = EngineLimits.max_queue
    max_batch: MaxBatch = EngineLimits.max_batch
    time_limit: TimeLimit = EngineLimits.time_limit

    def address(self) -> ServerAddress:
        """Return the address to listen on.

        Raises:
            UsageError: the key file cannot be read, an origin is invalid, or a public address has no key.
        """
        origins = parse_origins(self.allow_origin or ())
        address = ServerAddress(self.host, self.port, read_keys(self.api_key_file), origins)
        require_key_beyond_loopback(address, self.insecure)
        return address


@options.with_flags
def serve(
    context: typer.Context,
    flags: options.Flags,
    server: ServerFlags,
    no_web: Annotated[bool, server_option("--no-web", help="Serve the APIs without the web page.")] = False,
    allow_image_domain: Annotated[
        list[str] | None,
        server_option(metavar="HOST", help="Allow image URLs from this host (repeatable). Default: no URL is fetched."),
    ] = None,
    engine: Annotated[
        Literal["transformers", "vllm"],
        performance_option(
            metavar="transformers|vllm",
            help="Inference engine; vllm runs vLLM's own server, with OpenAI's API and the web page.",
        ),
    ] = "transformers",
    vllm_args: Annotated[
        str, performance_option(metavar="ARGS", help="Further `vllm serve` arguments, as one string.")
    ] = "",
) -> None:
    """Serve OpenAI's API, upstream's API and the web page. / 提供 OpenAI 接口、上游接口与网页。

    Example: visualglm serve --model visualglm-6b --port 8080
    """
    if engine == "vllm":
        check_vllm_flags(context)
        hosts, adapters = allow_image_domain or (), server.adapter or ()
        serve_vllm(flags, server.address(), hosts, adapters, split_args(vllm_args), not no_web)
        return
    if vllm_args:
        raise UsageError("--vllm-args needs --engine vllm. Add that, or remove --vllm-args.")
    run_server(flags, server, image_hosts=tuple(allow_image_domain or ()), with_page=not no_web)


def serve_vllm(
    flags: options.Flags,
    listening: ServerAddress,
    image_hosts: Sequence[str],
    adapters: Sequence[str],
    more: Sequence[str],
    with_page: bool,
) -> None:
    """Run vLLM's own server with our plugin until SIGTERM or Ctrl-C.

    Raises:
        UsageError: vLLM is missing or has another version, or it does not support a flag or an adapter.
        CheckpointError: vLLM does not support the checkpoint's format, or an adapter was trained on another model.
    """
    from ..vllm_plugin.versions import require_vllm

    require_vllm()
    from ..hub.local_folder import packed_model
    from ..serving.model_ids import parse_adapter_flags
    from ..vllm_plugin.server import VLLMServer, serve
    from ..vllm_plugin.supported_checkpoints import language_adapters, native_folder

    name, folder = served_name(flags.model), native_folder(flags.model or packed_model())
    require_available(listening)
    print_notice(flags)
    serve(
        VLLMServer(
            folder=folder,
            name=name,
            host=listening.host,
            port=listening.port,
            keys=listening.keys,
            trusted_hosts=listening.trusted_hosts,
            origins=listening.origins,
            image_hosts=image_hosts,
            dtype=flags.dtype,
            language=flags.language,
            sampling=flags.sampling(),
            adapters=language_adapters(parse_adapter_flags(adapters, name), folder),
            more=more,
            with_page=with_page,
        )
    )


def check_vllm_flags(context: typer.Context) -> None:
    """Raise `UsageError` if a flag was given that --engine vllm does not accept."""
    given = (name for name in context.params if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT")
    unsupported = next((name for name in given if name not in VLLM_FLAGS), None)
    if unsupported is not None:
        raise UsageError(
            f"--{unsupported.replace('_', '-')} works only with --engine transformers. Remove it, and give vLLM's own "
            "flags with --vllm-args."
        )


def split_args(arguments: str) -> list[str]:
    """Split --vllm-args as a shell does.

    Raises:
        UsageError: a quotation mark is not closed.
    """
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"--vllm-args {arguments} cannot be split ({error}). Close each quotation mark.") from error


def run_server(
    flags: options.Flags,
    server_flags: ServerFlags,
    before_run: Callable[[uvicorn.Server, str], None] | None = None,
    image_hosts: tuple[str, ...] = (),
    with_page: bool = True,
) -> None:
    """Load the model, attach adapters and serve until SIGTERM or Ctrl-C; running answers finish.

    `before_run` gets the server and its address when it is about to start. All flags are checked before the model is
    loaded.

    Raises:
        UsageError: the packages of `[serve]` are missing, a flag is invalid, or the address is not available.
    """
    require_extra("serve", "serving", *SERVE_PACKAGES)
    import gc

    from ..serving.app import ServerSettings, create_app
    from ..serving.listener import connection_limits, make_server
    from ..serving.model_ids import parse_adapter_flags
    from ..serving.url_fetcher import ImageFetcher

    listening, name = server_flags.address(), served_name(flags.model)
    ImageFetcher(image_hosts)
    adapters = parse_adapter_flags(server_flags.adapter or (), name)
    limits = connection_limits()
    settings = ServerSettings(
        name=name,
        keys=listening.keys,
        image_hosts=image_hosts,
        trusted_hosts=listening.trusted_hosts,
        origins=listening.origins,
        with_page=with_page,
        miniature=is_packed(flags.model),
        language=flags.language,
        defaults=flags.sampling(),
        request_limit=limits.requests,
        limits=EngineLimits(server_flags.max_queue, server_flags.max_batch, server_flags.time_limit),
    )
    require_available(listening)  # before the model is loaded, which may take minutes
    model = flags.open_model()
    for name, folder in adapters.items():
        model.add_adapter(folder, name)
    app = create_app(model, settings)
    grace = int(settings.limits.time_limit) + SHUTDOWN_GRACE
    server = make_server(app, limits, listening.host, listening.port, grace)
    gc.freeze()  # collections skip the model and its libraries: scanning them would block the event loop
    parts = "APIs and page" if settings.with_page else "APIs"
    print_notice(flags)
    typer.echo(f"{settings.name}: {parts} at {_url(listening)}", err=True)
    if before_run is not None:
        before_run(server, _url(listening))
    try:
        server.run()
    except SystemExit as error:
        if server.started:
            raise
        raise UsageError(_not_available(listening)) from error


def _url(listening: ServerAddress) -> str:
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    return f"http://{host}:{listening.port}"


def read_keys(file: Path | None) -> tuple[str, ...]:
    """Read API keys, one per line.

    Raises:
        UsageError: the file cannot be read, holds no key, or has a line that is not a key.
    """
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in file.read_bytes().removeprefix(BOM_UTF8).splitlines()]
    except OSError as error:
        raise UsageError(f"--api-key-file {file} cannot be read. Check the path and its permissions.") from error
    for number, line in enumerate(lines, 1):
        if not all(ord(" ") < byte < 127 for byte in line):
            raise UsageError(
                f"Line {number} of --api-key-file {file} has a space or a character that is not ASCII, which is not "
                "possible in a header. Write one key per line in ASCII."
            )
    if not any(lines):
        raise UsageError(f"--api-key-file {file} holds no key. Write one per line.")
    return tuple(line.decode("ascii") for line in lines if line)


def require_key_beyond_loopback(listening: ServerAddress, insecure: bool) -> None:
    """Raise `UsageError` if other machines could connect without a key."""
    if not (listening.keys or insecure or is_loopback(listening.host)):
        raise UsageError(
            f"--host {listening.host} accepts connections from other machines. Give --api-key-file, or --insecure to "
            "allow everyone."
        )


def require_available(listening: ServerAddress) -> None:
    """Raise `UsageError` if this process cannot listen on the address, for instance because its port is in use."""
    import asyncio

    async def bind() -> None:
        loop = asyncio.get_running_loop()
        trial = await loop.create_server(asyncio.Protocol, listening.host, listening.port, start_serving=False)
        trial.close()

    try:
        asyncio.run(bind())
    except (OSError, UnicodeError) as error:
        raise UsageError(_not_available(listening, error)) from error


def _not_available(listening: ServerAddress, error: Exception | None = None) -> str:
    """Say why the address cannot be listened on, and what to do."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        place = f"Port {listening.port} on {listening.host}"
        return f"{place} is in use. Stop the program that uses it, or choose another --port."
    if number == errno.EACCES:
        return f"Port {listening.port} needs administrator rights. Choose a --port above 1023."
    words = str(getattr(error, "strerror", None) or error).rpartition(": ")[2]  # asyncio names the address, too
    reason = "" if error is None else f" ({words})"
    return f"{listening.host}:{listening.port} cannot be listened on{reason}. Choose another --host or --port."


def is_loopback(host: str) -> bool:
    """Return True if only this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
