"""Items -> parts on many machines, by Ray Data: each actor opens the model once and answers chunks.

    chunks (names, not pictures) --> actors, on any machine --> one part each (parquet_results.py) --> how many rows,
    and errors

A chunk whose machine dies is given to another one. Pictures never travel: who answers reads them, from a folder that
all machines share. Knows nothing about the model: `open_answers` opens whatever answers items.
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
"""Items in a part at least: what a machine that dies loses at most."""
MOST_PARTS = 10_000
"""In one run; a larger source has larger chunks."""
OBJECT_STORE = 200_000_000
"""Bytes of shared memory for a cluster that begins and ends with the run; pictures do not pass through it."""

Answers = Callable[[Sequence[CaptionItem]], Sequence[Mapping[str, Any]]]
"""Items -> their rows."""


@dataclass(frozen=True)
class Pool:
    """How many models there are at most, and the cores and GPUs of each."""

    actors: int
    cpus: float
    gpus: float


class Worker:
    """An actor: chunk -> part, and how many rows and errors it has, or the user's mistake that hindered it.

    A mistake, also one while the model is opened, comes back as what it says: Ray would start the actor again, and wrap
    the error so that nobody can tell it from an error of ours.
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
            rows = self.answers(_items(chunk["items"]))
            write_part(self.staging, chunk["part"], rows)
        except VisualGLMError as error:
            return {"rows": 0, "failed": 0, "mistake": str(error)}
        return {"rows": len(rows), "failed": sum(row.get("error") is not None for row in rows), "mistake": ""}


def _text(items: Sequence[CaptionItem]) -> str:
    """Items as they travel: ASCII, whatever their names are."""
    return json.dumps([{**dataclasses.asdict(item), "file": str(item.file.absolute())} for item in items])


def _items(text: str) -> list[CaptionItem]:
    return [CaptionItem(**{**values, "file": Path(values["file"])}) for values in json.loads(text)]


def chunks(items: Sequence[CaptionItem], parts: ParquetResults) -> list[dict[str, str]]:
    """Each with the name of its part, which no retry changes."""
    size = max(CHUNK, -(-len(items) // MOST_PARTS))
    rest = iter(items)
    whole = iter(lambda: list(itertools.islice(rest, size)), [])
    return [{"part": parts.name(number), "items": _text(chunk)} for number, chunk in enumerate(whole)]


def answer(
    items: Sequence[CaptionItem], parts: ParquetResults, open_answers: Callable[[], Answers], pool: Pool
) -> Iterator[int]:
    """Fills the parts on the cluster that is connected; yields how many more items have rows.

    Raises:
        UsageError: the model cannot be opened there, or the folder is not shared.
    """
    data = ray_data()
    wanted = chunks(items, parts)
    if not wanted:
        return
    done = data.from_items(wanted, override_num_blocks=len(wanted)).map(
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
    """One model a GPU, or one a machine where there are none (or `device` is cpu), unless `actors` says how many; the
    cores of the smallest machine are shared out among its models.

    Raises:
        UsageError: the cluster has no cores to give, or no GPU for the device.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise UsageError("no machine of the Ray cluster has a core to give: start one with ray start --num-cpus.")
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if device == "auto" or device.startswith("cuda") else 0
    if device.startswith("cuda") and not gpus:
        raise UsageError(f"--device {device}, but the cluster has no GPU: add one, or leave --device out.")
    wanted = actors or gpus or len(nodes)
    fewest = min(node["CPU"] for node in nodes)
    share = max(1, int(fewest // -(-wanted // len(nodes))))
    return Pool(wanted, share, 1 if gpus else 0)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """The cluster at `address`, or one on this machine that listens on loopback alone and ends with the block.

    Raises:
        UsageError: Ray is not installed, or nothing answers at the address.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    alone: dict[str, Any] = {}
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read at import: a node of its own on loopback
        alone = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    import ray

    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **alone)
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: start one with ray start, or leave it out.") from error
    try:
        yield
    finally:
        ray.shutdown()


def require_ray() -> None:
    """Raises `UsageError` where the packages of `[ray]` are missing."""
    require_extra("ray", "--engine ray", "ray", "pyarrow")


def ray_data() -> ModuleType:
    """`ray.data`, quiet: the bar is ours."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data  # type: ignore[no-any-return]
