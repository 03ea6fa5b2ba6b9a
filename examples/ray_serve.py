"""Run the server as a Ray Serve app: one address, several replicas of the model.

    pip install -c constraints.txt ".[serve,ray]" "ray[serve]"
    python examples/ray_serve.py --replicas 2

Each replica equals `visualglm serve --no-web`: OpenAI's API, upstream's `POST /`, the same queue and answers. Ray's
proxy sends a request to the replica with the fewest running ones and forwards its stream. It listens on this machine
only; for other machines, put nginx in front (deploy/nginx.conf). On a cluster, use `--ray-address auto`, send requests
to one node's proxy, and give as `--model` a folder that every machine can read. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # a Ray of our own stays on loopback

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Application

import visualglm
from visualglm.cli.model_name import served_name
from visualglm.serving.app import ServerSettings, create_app

LOOPBACK = ("127.0.0.1", "localhost")


def application(model: str | None, replicas: int, cpus: float, gpus: float) -> Application:
    """Build an app of `replicas` servers, each with its own model, cores and GPUs."""

    def build() -> FastAPI:
        settings = ServerSettings(name=served_name(model), with_page=False, trusted_hosts=LOOPBACK)
        return create_app(visualglm.load(model), settings)

    resources = {"num_cpus": cpus, "num_gpus": gpus}
    limits = {"max_ongoing_requests": 64, "max_queued_requests": 64 * replicas}
    server = serve.deployment(serve.ingress(build)(), name="visualglm")
    return server.options(num_replicas=replicas, ray_actor_options=resources, **limits).bind()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="cores of each replica")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each replica")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ray-address", default="local", help="the cluster, or auto; default: one on this machine")
    options = parser.parse_args()
    alone = {"object_store_memory": 200_000_000, "include_dashboard": False} if options.ray_address == "local" else {}
    ray.init(address=options.ray_address, log_to_driver=False, **alone)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    app = application(options.model, options.replicas, options.cpus, options.gpus)
    try:
        serve.run(app, blocking=True, name="visualglm", route_prefix="/")
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    main()
