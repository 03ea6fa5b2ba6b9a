"""Fixtures of the laboratory's tests: the packed model, small models, a tiny album of drawn kinds, a classifier."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a hub; before transformers is imported
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, a core each; processes that tests start inherit it
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import visualglm
from visualglm.conversation import VisualGLM
from visualglm.evaluation.scenes.kinds import KINDS
from visualglm.evaluation.scenes.shapes import draw_kind, stamp_kind
from visualglm.hub.local_folder import packed_model
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.stem import CLASSES, ConvolutionalStem
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer
from visualglm.pretraining.build_model import build_model
from visualglm.pretraining.config import ModelSizes
from visualglm_lab.training.stem_weights import NAME, add_stem

torch.set_num_threads(1)
TONES = {"red": (220, 20, 40), "green": (34, 139, 34), "blue": (30, 90, 220), "brown": (120, 70, 30)}
SPLITS = {
    "train": ("red", "green"),
    "validation": ("blue",),
    "held_out": ("brown", "brown"),
    "unseen_style": ("blue",),
    "unseen_concept": ("brown",),
    "photos": ("green",),
}
SMALL = ModelSizes(
    image_size=96, vision_layers=1, vision_hidden=64, qformer_layers=1, qformer_hidden=64, layers=1, hidden=128
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder `lab`; the hook sees those of other folders, too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("lab")


def cut_out(key: str, tone: tuple[int, int, int]) -> np.ndarray:
    """Draw a kind on a transparent background, [128, 128, 4]."""
    canvas, mask = Image.new("RGB", (128, 128)), Image.new("L", (128, 128))
    draw_kind(ImageDraw.Draw(canvas), key, tone, (64, 64), (50, 50))
    stamp_kind(ImageDraw.Draw(mask), key, 255, (64, 64), (50, 50))
    canvas.putalpha(mask)
    return np.asarray(canvas)


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight kinds in every split; held-out ones twice, as near-duplicates; not all photographs may be redistributed."""
    folder, pixels, rows = tmp_path_factory.mktemp("album"), [], []
    for split, tones in SPLITS.items():
        for number, tone in enumerate(tones):
            for kind in KINDS[4:12]:
                photo = split == "photos"
                rows.append(
                    {
                        "index": len(rows),
                        "concept": kind.key,
                        "source": "drawn",
                        "file": f"{kind.key}-{tone}-{number}.png",
                        "licence": "evaluation only" if photo and kind.key == "heart" else "CC0",
                        "style": "photo" if photo else "drawing",
                        "cutout": not photo,
                        "cluster": KINDS.index(kind) if split == "held_out" else 100 + len(rows),
                        "split": split,
                        "also": ["diamond"] if kind.key == "rectangle" else [],
                    }
                )
                pixels.append(cut_out(kind.key, TONES[tone]))
    np.save(folder / "album.npy", np.stack(pixels))
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def model() -> VisualGLM:
    """Return the packed model; shared, so tests must not change it."""
    return visualglm.load(device="cpu")


@pytest.fixture(scope="session")
def classifier() -> dict[str, torch.Tensor]:
    """Return features of free images, and a random classifier."""
    torch.manual_seed(0)
    features = (torch.randn(300, 1280) + 0.3).clamp(min=0)
    return {"features": features, "classes": 0.05 * torch.randn(CLASSES, 1280), "bias": torch.zeros(CLASSES)}


def build_small() -> VisualGLMForConditionalGeneration:
    """Build a small model without a stem, with random weights."""
    torch.manual_seed(0)
    return build_model(SMALL, ChatGLMTokenizer(str(packed_model() / "ice_text.model")))


@pytest.fixture
def small_model() -> VisualGLMForConditionalGeneration:
    return build_small()


@pytest.fixture(scope="session")
def stem_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model with a random stem."""
    folder, model = tmp_path_factory.mktemp("start"), build_small()
    add_stem(model, ConvolutionalStem(NAME).state_dict())
    model.save_pretrained(folder)
    return folder
