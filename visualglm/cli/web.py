"""`visualglm web`: serve the web page and the APIs behind it."""

from __future__ import annotations

from ..serving.limits import EngineLimits
from . import options
from .serve import (
    AdapterFlags,
    Host,
    Insecure,
    KeyFile,
    MaxBatch,
    MaxQueue,
    Port,
    TimeLimit,
    listening_at,
    run_server,
    served_name,
)


@options.with_flags
def web(
    flags: options.Flags,
    adapter: AdapterFlags = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key_file: KeyFile = None,
    insecure: Insecure = False,
    max_queue: MaxQueue = EngineLimits.max_queue,
    max_batch: MaxBatch = EngineLimits.max_batch,
    time_limit: TimeLimit = EngineLimits.time_limit,
) -> None:
    """Serve the web page and the APIs behind it. / 提供网页及其背后的接口。

    Example: visualglm web --model visualglm-6b
    """
    listening = listening_at(host, port, api_key_file, insecure)
    from ..serving.app import ServerSettings
    from ..serving.model_ids import parse_adapter_flags

    settings = ServerSettings(
        name=served_name(flags.model),
        keys=listening.keys,
        trusted_hosts=listening.trusted_hosts,
        limits=EngineLimits(max_queue, max_batch, time_limit),
    )
    run_server(flags, settings, listening, parse_adapter_flags(adapter or (), settings.name))
