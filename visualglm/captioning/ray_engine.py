"""Caption items on many machines with Ray Data: each actor loads the model once and answers chunks.

    chunks of items (names only) --> actors on any machine --> one part per chunk (parquet_results.py) --> counts

If a machine fails, its chunk goes to another one. Actors read the images themselves, from a folder that all machines
share.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UsageError, VisualGLMError, require_extra
from .parquet_results import ParquetResults, write_part
from .sources import CaptionItem

CHUNK = 64
"""Minimum items per part. A machine that fails loses at most one unfinished part."""
MOST_PARTS = 10_000
"""Parts per run; a larger source gets larger chunks."""
OBJECT_STORE = 200_000_000
"""Bytes of shared memory for a cluster of this run alone; images do not pass through it."""

Answers = Callable[[Sequence[CaptionItem]], Sequence[Mapping[str, Any]]]
"""Function from items to their rows."""


@dataclass(frozen=True)
class Pool:
    """The maximum number of actors, and the CPU cores and GPUs of each."""

    actors: int
    cpus: float
    gpus: float


class Worker:
    """An actor that writes a chunk as a part and returns the counts of rows and errors.

    A `VisualGLMError`, also one while loading the model, is returned as its message, because Ray would restart the
    actor and wrap a raised error.
    """

    def __init__(self, open_answers: Callable[[], Answers], staging: str) -> None:
        self.staging = Path(staging)
        self.mistake = ""
        try:
            self.answers = open_answers()
        except VisualGLMError as error:
            self.mistake = str(error)

    def __call__(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        if self.mistake:
            return {"rows": 0, "failed": 0, "mistake": self.mistake}
        try:
            rows = self.answers(_deserialize(chunk["items"]))
            write_part(self.staging, chunk["part"], rows)
        except VisualGLMError as error:
            return {"rows": 0, "failed": 0, "mistake": str(error)}
        return {"rows": len(rows), "failed": sum(row.get("error") is not None for row in rows), "mistake": ""}


def _serialize(items: Sequence[CaptionItem]) -> str:
    """Serialize items as ASCII JSON, whatever their names are."""
    return json.dumps([{**dataclasses.asdict(item), "file": str(item.file.absolute())} for item in items])


def _deserialize(text: str) -> list[CaptionItem]:
    return [CaptionItem(**{**values, "file": Path(values["file"])}) for values in json.loads(text)]


def chunks(items: Sequence[CaptionItem], parts: ParquetResults) -> list[dict[str, str]]:
    """Split items into chunks, each with the name of its part, which a retry keeps."""
    size = max(CHUNK, -(-len(items) // MOST_PARTS))
    rest = iter(items)
    whole = iter(lambda: list(itertools.islice(rest, size)), [])
    return [{"part": parts.name(number), "items": _serialize(chunk)} for number, chunk in enumerate(whole)]


def answer(
    items: Sequence[CaptionItem], parts: ParquetResults, open_answers: Callable[[], Answers], pool: Pool
) -> Iterator[int]:
    """Answer the items on the connected cluster; yield the number of new rows after each part.

    Raises:
        UsageError: the model cannot be loaded there, or the folder is not shared.
    """
    data = ray_data()
    pending = chunks(items, parts)
    if not pending:
        return
    done = data.from_items(pending, override_num_blocks=len(pending)).map(
        Worker,
        fn_constructor_args=(open_answers, str(parts.staging)),
        compute=data.ActorPoolStrategy(
            min_size=1, max_size=pool.actors, initial_size=pool.actors, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    for row in done.iter_rows():
        if row["mistake"]:
            raise UsageError(row["mistake"])
        parts.failed += row["failed"]
        yield row["rows"]


def pool_of(actors: int | None, device: str) -> Pool:
    """Choose the actors: `actors`, or one per GPU, or one per machine without GPUs (or if `device` is cpu).

    The cores of the smallest machine are divided among its actors.

    Raises:
        UsageError: the cluster has no free core, or no GPU although the device needs one.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise UsageError("No machine of the Ray cluster has a free core. Start one with ray start --num-cpus.")
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if device == "auto" or device.startswith("cuda") else 0
    if device.startswith("cuda") and not gpus:
        raise UsageError(f"--device {device}, but the cluster has no GPU. Add one, or remove --device.")
    count = actors or gpus or len(nodes)
    fewest_cores = min(node["CPU"] for node in nodes)
    cores_per_actor = max(1, int(fewest_cores // -(-count // len(nodes))))
    return Pool(count, cores_per_actor, 1 if gpus else 0)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address`, or start one on loopback that ends with the block.

    Raises:
        UsageError: Ray is not installed, or no cluster answers at the address.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local_options: dict[str, Any] = {}
    if address is None:
        os.environ.setdefault(
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
        )  # read when ray is imported; keeps the node on loopback
        local_options = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    import ray

    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local_options)
    except (ConnectionError, ValueError) as error:
        raise UsageError(
            f"No Ray cluster answers at {address}. Start one with ray start, or remove --ray-address."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def require_ray() -> None:
    """Raise `UsageError` if the packages of `[ray]` are missing."""
    require_extra("ray", "--engine ray", "ray", "pyarrow")


def ray_data() -> ModuleType:
    """Return `ray.data` without its progress bars and logs; the command line shows its own bar."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data  # type: ignore[no-any-return]
