"""Which weights, images and machine a results file is about."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from visualglm.hardware.machine_report import machine, versions


def origin(model: Path, album: Path | None) -> dict[str, Any]:
    """Describe the weights, the images, the machine and the date."""
    found: dict[str, Any] = {"split": "test", "date": time.strftime("%Y-%m-%d")}
    found["weights_sha256"] = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    if album is not None:
        manifest = (album / "manifest.jsonl").read_bytes()
        found["album"] = {"pictures": manifest.count(b"\n"), "manifest_sha256": hashlib.sha256(manifest).hexdigest()}
    return {**found, "machine": machine(), "versions": versions()}
