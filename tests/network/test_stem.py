"""The convolutional stem: geometry, neutral beginning, frozen weights, and everything that a model with it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.generation.configuration_utils import CompileConfig

import visualglm
from visualglm import VisualGLMConfig, VisualGLMForConditionalGeneration
from visualglm.benchmarking.throughput import random_prompt
from visualglm.checkpoints import convert, open_checkpoint, save_sat, verify
from visualglm.checkpoints.memory_estimate import estimate_memory
from visualglm.errors import ConfigurationError, UsageError
from visualglm.network.stem import ConvolutionalStem, _renormalize, map_channels, maps_per_patch
from visualglm.network.vision import CERTAINTY_STEPS, is_frozen, is_of_stem
from visualglm.network.visualglm import ImageEncoder
from visualglm.preprocessing.images import VisualGLMImageProcessor

from ..conftest import CONCEPTS, with_random_stem

NAME = "efficientnet-lite0"
MOON = visualglm.packed_model() / "samples" / "moon.png"


@pytest.fixture(scope="module")
def plain() -> Any:
    """Return a model without a stem: the packed one, or what is left of it without its stem."""
    model = VisualGLMForConditionalGeneration.from_pretrained(str(visualglm.packed_model()), dtype=torch.float32).eval()
    if model.config.vision.stem is None:
        return model
    bare = VisualGLMConfig.from_dict(model.config.to_dict())
    bare.vision.stem, bare.vision.concepts = None, 0
    made = VisualGLMForConditionalGeneration(bare).eval()
    made.load_state_dict(model.state_dict(), strict=False)
    return made


@pytest.fixture(scope="module")
def model(stem_folder: Path) -> Any:
    return VisualGLMForConditionalGeneration.from_pretrained(str(stem_folder), dtype=torch.float32).eval()


def inputs(model: Any, rows: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    size = model.config.vision.image_size
    return {
        "input_ids": random_prompt(model.config, 36).repeat(rows, 1),
        "pixel_values": torch.randn(rows, 3, size, size),
    }


def test_a_fresh_stem_leaves_every_logit_as_it_was(plain: Any) -> None:
    given = inputs(plain)
    with torch.no_grad():
        assert torch.equal(with_random_stem(plain)(**given).logits, plain(**given).logits)


def test_a_model_without_a_stem_has_no_tensor_of_it(plain: Any) -> None:
    assert not [name for name in plain.state_dict() if is_of_stem(name)]
    assert VisualGLMConfig().vision.stem is None


def test_the_stem_changes_what_is_computed(model: Any, plain: Any) -> None:
    given = inputs(plain)
    with torch.no_grad():
        assert (model(**given).logits - plain(**given).logits).abs().max() > 0.1


@pytest.mark.parametrize("side, sizes", [(144, (18, 9, 5)), (224, (28, 14, 7)), (33, (5, 3, 2))])
def test_maps_have_the_sizes_of_same_padding(side: int, sizes: tuple[int, ...]) -> None:
    maps, pooled = ConvolutionalStem(NAME)(torch.randn(2, 3, side, side))
    assert [tuple(x.shape) for x in maps] == [(2, c, s, s) for c, s in zip((40, 112, 320), sizes, strict=True)]
    assert pooled.shape == (2, 1280)


@pytest.mark.parametrize("side, patch", [(144, 16), (224, 14), (40, 8), (72, 36)])
def test_each_patch_gets_the_cells_above_it(side: int, patch: int) -> None:
    """In maps that hold their own row, features grow from the top row of patches to the bottom row, and only so."""
    rows = side // patch
    maps = []
    for stride, channels in ((8, 40), (16, 112), (32, 320)):
        cells = -(-side // stride)
        maps.append(torch.linspace(0, 1, cells)[None, None, :, None].expand(1, channels, cells, cells))
    found = maps_per_patch(maps, patch, rows)
    assert found.shape == (1, rows * rows, map_channels(NAME, patch))
    means = found[0].mean(-1).view(rows, rows)
    assert (means.diff(dim=0) > 0).all() and means.diff(dim=1).abs().max() < 1e-5


def test_a_map_of_the_patches_raster_is_read_exactly() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 40, 18, 18), torch.randn(1, 112, 9, 9), torch.randn(1, 320, 5, 5)]
    near = maps_per_patch(maps, 16, 9)[0].view(9, 9, 592)
    assert torch.equal(near[3, 5, :160].view(40, 2, 2), maps[0][0, :, 6:8, 10:12])
    assert torch.equal(near[3, 5, 160:272], maps[1][0, :, 3, 5])


def test_pixels_are_normalised_as_the_stem_was_trained() -> None:
    processor = VisualGLMImageProcessor(size={"height": 32, "width": 32})
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    raw = torch.tensor(list(image.getdata())).view(32, 32, 3).permute(2, 0, 1).float()  # type: ignore[call-overload]
    found = _renormalize(processor(images=[image], return_tensors="pt")["pixel_values"])[0]
    assert (found - (raw - 127) / 128).abs().max() < 1e-5


def test_the_last_two_image_embeddings_tell_what_the_stem_sees(model: Any) -> None:
    """The last tells the concepts that the head reads in the pooled features, the one before the stem's own classes.

    Both tell how long what they add is.
    """
    encoder, images = model.image_encoder, inputs(model)["pixel_values"]
    with torch.no_grad():
        tokens, pooled = encoder.read(images)
        queries, _ = encoder.qformer(tokens)
        stem = encoder.vit.mixins["patch_embedding"].stem
        classes = torch.softmax(pooled @ stem.classifier.weight.T + stem.classifier.bias, dim=-1)
        expected = encoder.glm_proj(queries)
        head = encoder.concept_head
        concepts = torch.softmax(head.classifier(head.down(pooled)), dim=-1)
        added = torch.stack([encoder.class_proj(classes), concepts @ head.proj.weight.T + head.proj.bias], dim=1)
        steps = torch.sigmoid(
            added.norm(dim=-1, keepdim=True) * encoder.certainty.steps.weight[:, 0] + encoder.certainty.steps.bias
        )
        expected[:, -2:] += added + steps @ encoder.certainty.proj.weight.T + encoder.certainty.proj.bias
        torch.testing.assert_close(model.encode_images(images), expected)
        torch.testing.assert_close(tokens, encoder.vit(images))


def test_the_stem_is_frozen_however_the_model_was_made(model: Any) -> None:
    """Distributed training waits for a gradient of each parameter that is trainable."""
    for made in (model, VisualGLMForConditionalGeneration(model.config)):
        frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
        assert frozen == {name for name, _ in made.named_parameters() if is_frozen(name)} != set()


def test_training_reaches_the_added_layers_and_never_the_stem(model: Any) -> None:
    given = inputs(model)
    model.zero_grad()
    model(**given, labels=given["input_ids"]).loss.backward()
    encoder = model.image_encoder
    embed = encoder.vit.mixins["patch_embedding"]
    assert all(parameter.grad is None for parameter in embed.stem.parameters())
    for added in (embed.map_proj, embed.pooled_proj, encoder.concept_head, encoder.class_proj, encoder.certainty):
        assert all(parameter.grad.abs().sum() > 0 for parameter in added.parameters())
    model.zero_grad()


def test_a_batch_is_its_rows_and_the_cache_changes_nothing(model: Any) -> None:
    given = inputs(model)
    how = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
    together = model.generate(**given, **how)
    for row in range(2):
        own = {name: value[row : row + 1] for name, value in given.items()}
        assert torch.equal(model.generate(**own, **how)[0], together[row])
        assert torch.equal(model.generate(**own, **how, use_cache=False)[0], together[row])


@pytest.mark.slow
def test_a_static_cache_with_compiled_steps_gives_the_same_tokens(model: Any) -> None:
    torch.compiler.reset()
    compiling = CompileConfig(fullgraph=True, dynamic=False, backend="eager", mode=None)
    compiling._compile_all_devices = True
    how = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, **inputs(model)}
    static = model.generate(**how, cache_implementation="static", compile_config=compiling)
    assert torch.equal(model.generate(**how), static)


@pytest.mark.slow
def test_the_image_encoder_compiles_into_one_graph(model: Any) -> None:
    torch.compiler.reset()
    images = inputs(model)["pixel_values"]
    encode = torch.compile(model.image_encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(encode(images)[0], model.encode_images(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_agree_loosely(model: Any, stem_folder: Path, dtype: torch.dtype) -> None:
    half = VisualGLMForConditionalGeneration.from_pretrained(str(stem_folder), dtype=dtype).eval()
    given = inputs(model)
    with torch.no_grad():
        found, exact = half(**given).logits.float(), model(**given).logits
    assert torch.nn.functional.cosine_similarity(found, exact, dim=-1).min() > 0.99


def test_another_resolution(model: Any, stem_folder: Path) -> None:
    larger = VisualGLMForConditionalGeneration.from_pretrained(str(stem_folder), vision_config={"image_size": 176})
    assert (
        larger.encode_images(torch.randn(1, 3, 176, 176)).shape
        == model.encode_images(inputs(model, 1)["pixel_values"]).shape
    )


def test_saving_and_converting_keep_it(model: Any, stem_folder: Path, tmp_path: Path) -> None:
    folder = convert(stem_folder, tmp_path / "native")
    assert open_checkpoint(folder).config.vision.stem == NAME
    assert [check.result for check in verify(folder)].count("passed") >= 4
    assert "failed" not in [check.result for check in verify(folder)]
    again = VisualGLMForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32).eval()
    given = inputs(model)
    with torch.no_grad():
        assert torch.equal(again(**given).logits, model(**given).logits)


@pytest.mark.parametrize("to", ["hf", "sat"])
def test_upstreams_layouts_refuse_it_in_one_sentence(model: Any, stem_folder: Path, tmp_path: Path, to: Any) -> None:
    with pytest.raises(UsageError, match=r"convolutional stem.*--without-stem"):
        convert(stem_folder, tmp_path / to, to)
    if to == "sat":
        with pytest.raises(UsageError, match="convolutional stem"):
            save_sat(model, tmp_path / to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["native", "hf", "sat"])
def test_a_model_without_it_is_made_on_the_spot(
    plain: Any, stem_folder: Path, tmp_path: Path, to: str, program: Any
) -> None:
    done = program("convert", str(stem_folder), str(tmp_path / to), "--to", to, "--without-stem")
    assert done.returncode == 0, done.stderr
    made = VisualGLMForConditionalGeneration.from_pretrained(str(tmp_path / to), dtype=torch.float32).eval()
    given = inputs(plain)
    with torch.no_grad():
        assert torch.equal(made(**given).logits, plain(**given).logits)


def test_quantized_it_stays_close(model: Any, stem_folder: Path) -> None:
    given = inputs(model)
    few = visualglm.load(stem_folder, device="cpu", dtype="float32", quantize=8, quantize_vision=8).model
    assert few.image_encoder.vit.mixins["patch_embedding"].stem.first.weight.dtype == torch.float32
    with torch.no_grad():
        found, exact = few(**given).logits, model(**given).logits
    assert torch.nn.functional.cosine_similarity(found, exact, dim=-1).min() > 0.99


def test_memory_is_estimated_with_it(stem_folder: Path, plain: Any, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path)
    with_stem, without = (
        estimate_memory(open_checkpoint(f), torch.float32, context=16) for f in (stem_folder, tmp_path)
    )
    classifier = 1280 * 1000 + 1000
    head = 256 * (1280 + 2 * (CONCEPTS + 1)) + 256 + CONCEPTS + 1 + 256
    certainty = 2 * CERTAINTY_STEPS + 256 * CERTAINTY_STEPS + 256
    added = 3_350_000 + classifier + head + certainty + 256 * (592 + 1280 + 1000) + 3 * 256
    assert with_stem.image - without.image == 4 * added and with_stem.work > without.work


def test_vllms_image_encoder_loads_the_same_tensors(model: Any) -> None:
    """The plugin builds this module from the configuration, and loads a native checkpoint's names into it."""
    config = VisualGLMConfig.from_dict(model.config.to_dict())
    encoder = ImageEncoder(config.vision, config.qformer, config.hidden_size).eval()
    prefix = "image_encoder."
    encoder.load_state_dict({n.removeprefix(prefix): t for n, t in model.state_dict().items() if n.startswith(prefix)})
    images = inputs(model)["pixel_values"]
    with torch.no_grad():
        assert torch.equal(encoder(images)[0], model.encode_images(images))


@pytest.mark.parametrize(
    "vision, word",
    [
        ({"stem": "resnet"}, "vision_config.stem is 'resnet'.*efficientnet-lite0"),
        ({"stem": 3}, "vision_config.stem is 3"),
        ({"stem": {"kind": NAME}}, "vision_config.stem"),
        ({"stem": ""}, "vision_config.stem"),
        ({"stem": NAME, "in_channels": 1}, "in_channels"),
        ({"concepts": -1}, "concepts is -1"),
        ({"concepts": "many"}, "concepts is 'many'"),
        ({"concepts": 10**9}, "concepts is 1000000000"),
        ({"stem": None}, "concepts is 12.*without a stem"),
    ],
)
def test_a_strangers_configuration_is_checked(stem_folder: Path, tmp_path: Path, vision: Any, word: str) -> None:
    folder = Path(shutil.copytree(stem_folder, tmp_path / "changed"))
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    raw["vision_config"] |= vision
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=word):
        VisualGLMForConditionalGeneration.from_pretrained(str(folder))


def test_a_stem_needs_two_image_embeddings() -> None:
    with pytest.raises(ConfigurationError, match="image_length is 1"):
        VisualGLMConfig(image_length=1, vision_config={"stem": NAME}, qformer_config={"num_queries": 1})


def test_a_dialogue_and_bulk_captions_agree(stem_folder: Path) -> None:
    opened = visualglm.load(stem_folder, device="cpu")
    single = opened.conversation(MOON).ask("这是什么？", max_new_tokens=6).text
    assert opened.caption([MOON, MOON], "这是什么？", max_new_tokens=6)[1].text == single
