"""Fixtures: one cluster of two nodes on this machine, on loopback; without Ray these tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests in `make test`, because starting Ray takes a minute."""
    if not os.environ.get("VISUALGLM_TEST_RAY"):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="run by make test-ray, which installs Ray"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes of a core each; the second may be killed by the last test that uses it."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.second = cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()
