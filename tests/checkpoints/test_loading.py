"""Every layout gives the same model; what `from_pretrained` of transformers can do still works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from visualglm.checkpoints import convert, find_vocabulary, open_checkpoint, read_config
from visualglm.checkpoints.fingerprint import fixed_input
from visualglm.checkpoints.formats.unused_tensors import _rotary_buffer
from visualglm.errors import CheckpointError, ConfigurationError
from visualglm.model import VisualGLMForConditionalGeneration as Model
from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.sampling import PRESETS

from .conftest import ODD_CONFIG, SAT_FILE, random_state, sat_tensors, write_hf


def assert_same_model(one: Model, other: Model) -> None:
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def logits(model: Model) -> Tensor:
    ids, images = fixed_input(model.config)
    with torch.no_grad():
        return model(ids, pixel_values=images.to(model.dtype)).logits


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
def test_layouts_give_the_same_model(odd: Path, tmp_path: Path, layout: str) -> None:
    model, info = Model.from_pretrained(odd, dtype="float32", output_loading_info=True)
    assert not any(info.values()) and model.dtype == torch.float32 and not model.training
    other = Model.from_pretrained(convert(odd, tmp_path / layout, layout, with_fingerprint=False), dtype=torch.float32)
    assert_same_model(model, other)
    assert torch.equal(logits(model), logits(other))


@pytest.mark.parametrize("inside", ["", "1", SAT_FILE, "latest", "model_config.json"])
def test_sat_by_folder_step_or_file(sat: Path, inside: str) -> None:
    model = Model.from_pretrained(str(sat / inside))
    assert model.config.rotary_frequencies == "by_dtype" and model.dtype == torch.float16


@pytest.mark.parametrize("inside", ["", "config.json", "pytorch_model-00001-of-00003.bin", "ice_text.model"])
def test_hugging_face_by_folder_or_file(hf: Path, sat: Path, inside: str) -> None:
    model = Model.from_pretrained(hf / inside)
    assert model.config.rotary_frequencies == "half" and model.dtype == torch.float16
    assert model.name_or_path == str(hf / inside) and model.generation_config.eos_token_id == 405
    assert_same_model(model, Model.from_pretrained(sat))


def test_single_bin_index_lost_and_safetensors(hf: Path, tmp_path: Path) -> None:
    wanted = Model.from_pretrained(hf)
    (hf / "pytorch_model.bin.index.json").unlink()
    assert_same_model(wanted, Model.from_pretrained(hf))
    single = convert(hf, tmp_path / "single", "hf", with_fingerprint=False)
    names = {"pytorch_model-00001-of-00001.bin": "pytorch_model.bin", "pytorch_model.bin.index.json": None}
    for old, new in names.items():
        (single / old).rename(single / new) if new else (single / old).unlink()
    assert_same_model(wanted, Model.from_pretrained(single))
    native = convert(hf, tmp_path / "native", with_fingerprint=False)
    (native / "config.json").write_text((hf / "config.json").read_text())
    assert open_checkpoint(native).layout == "hf"
    assert_same_model(wanted, Model.from_pretrained(native))


def test_files_of_old_pytorch(tmp_path: Path) -> None:
    state = random_state(ODD_CONFIG)
    new = write_hf(tmp_path / "new", ODD_CONFIG, state)
    old = write_hf(tmp_path / "old", ODD_CONFIG, state, _use_new_zipfile_serialization=False)
    assert_same_model(Model.from_pretrained(old), Model.from_pretrained(new))


def test_older_sat_generation(sat: Path, edit_json: Callable[..., None]) -> None:
    wanted = Model.from_pretrained(sat)
    tensors = sat_tensors(sat)
    for name, tensor in tensors.items():
        if name.startswith("transformer.layers.") and "query_key_value" in name:
            tensors[name] = tensor.unflatten(0, (3, 4, -1)).transpose(0, 1).reshape(tensor.shape)
    content = {"module": tensors, "iteration": 1, "rng_tracker_states": {}, "torch_rng_state": torch.get_rng_state()}
    torch.save(content, sat / SAT_FILE)
    edit_json(sat / "model_config.json", pad_token_id=None)
    assert_same_model(Model.from_pretrained(sat), wanted)


def test_states_of_training_frameworks_beside_the_weights(sat: Path) -> None:
    import argparse
    import random

    import numpy as np

    wanted = Model.from_pretrained(sat)
    states = {"np_rng_state": np.random.get_state(), "random_rng_state": random.getstate()}
    torch.save({"module": sat_tensors(sat), "args": argparse.Namespace(fp16=True), **states}, sat / SAT_FILE)
    assert_same_model(Model.from_pretrained(sat), wanted)


def test_head_is_tied_only_where_the_files_say_so(odd: Path, tmp_path: Path, edit_json: Callable[..., None]) -> None:
    edit_json(odd / "config.json", tie_word_embeddings=True)
    model = Model.from_pretrained(odd)
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.transformer.word_embeddings.weight.data_ptr()
    state = random_state(ODD_CONFIG)
    state["lm_head.weight"] = state["transformer.word_embeddings.weight"].clone()
    model = Model.from_pretrained(write_hf(tmp_path / "tied", ODD_CONFIG, state))
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.transformer.word_embeddings.weight


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
def test_save_and_load_is_the_identity(odd: Path, tmp_path: Path, layout: str) -> None:
    model = Model.from_pretrained(convert(odd, tmp_path / "source", layout, with_fingerprint=False))
    model.save_pretrained(tmp_path / "saved")
    again = Model.from_pretrained(tmp_path / "saved")
    assert_same_model(again, model)
    assert again.config.rotary_frequencies == "half" and again.config.a_key_from_elsewhere == [1, 2]
    assert "auto_map" not in json.loads((tmp_path / "saved/config.json").read_text())


def test_the_model_owns_its_memory(hf: Path, sat: Path) -> None:
    """Overwriting the files must not reach a model that is open (saving over one's own checkpoint does that)."""
    for folder, pattern in ((hf, "*.bin"), (sat, "1/*.pt")):
        model = Model.from_pretrained(folder)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for file in folder.glob(pattern):
            with file.open("r+b") as handle:
                handle.write(b"\xff" * file.stat().st_size)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_arguments_of_from_pretrained(hf: Path, tmp_path: Path) -> None:
    model = Model.from_pretrained(hf, dtype=torch.bfloat16, attn_implementation="eager", device_map={"": "cpu"})
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    model = Model.from_pretrained(hf, rotary_frequencies="exact", use_cache=False, trust_remote_code=True)
    assert model.config.rotary_frequencies == "exact" and not model.config.use_cache
    given = VisualGLMConfig.from_pretrained(hf, attn_implementation="eager", rotary_frequencies="by_dtype")
    model = Model.from_pretrained(hf, config=given)
    assert model.config.rotary_frequencies == "by_dtype" and model.config._attn_implementation == "eager"
    assert model.config.tie_word_embeddings and model.dtype == torch.float16
    (hf / "generation_config.json").write_text('{"top_k": 7}')
    assert Model.from_pretrained(hf).generation_config.top_k == 7
    assert_same_model(Model.from_pretrained(tmp_path, subfolder="hf"), model)
    state = Model.from_pretrained(hf).state_dict()
    assert_same_model(Model.from_pretrained(None, config=given, state_dict=state), model)


def test_sampling_defaults(hf: Path, tmp_path: Path) -> None:
    """Upstream's own stand in its code; a folder that says something else is believed; conversions keep either."""
    model = Model.from_pretrained(hf)
    assert {key: getattr(model.generation_config, key) for key in PRESETS["hf"]} == PRESETS["hf"]
    given = Model.from_pretrained(hf, generation_config=GenerationConfig(top_k=9)).generation_config
    assert (given.top_k, given.min_length) == (9, GenerationConfig().min_length)
    native = convert(hf, tmp_path / "native", with_fingerprint=False)
    assert Model.from_pretrained(native).generation_config.to_dict() == model.generation_config.to_dict()
    plain = Model.from_pretrained(hf)
    plain.generation_config = GenerationConfig.from_model_config(plain.config)
    plain.save_pretrained(tmp_path / "plain")
    for layout in ("hf", "sat"):
        back = Model.from_pretrained(
            convert(tmp_path / "plain", tmp_path / layout / "out", layout, with_fingerprint=False)
        )
        assert not back.generation_config.do_sample and back.generation_config.top_k != 100


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
def test_answers_can_end_whatever_the_file_lacks(odd: Path, tmp_path: Path, layout: str) -> None:
    folder = convert(odd, tmp_path / layout, layout, with_fingerprint=False)
    for content, ends in (('{"top_k": 7}', 205), ('{"top_k": 7, "eos_token_id": [205, 7]}', [205, 7])):
        (folder / "generation_config.json").write_text(content)
        found = Model.from_pretrained(folder).generation_config
        assert (found.top_k, found.eos_token_id, found.pad_token_id, found.bos_token_id) == (7, ends, 3, 204)


@pytest.mark.parametrize("layout", ["native", "hf", "sat"])
def test_the_configuration_alone(
    odd: Path, tmp_path: Path, edit_json: Callable[..., None], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = convert(odd, tmp_path / layout, layout, with_fingerprint=False)
    whole = open_checkpoint(folder).config
    monkeypatch.setattr("visualglm.checkpoints.storage.read.torch.load", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr("visualglm.checkpoints.storage.shards.read_weights", lambda *args: 1 / 0)
    config = read_config(folder)
    assert (config.hidden_size, config.num_layers, config.vocab_size) == (48, 2, 300)
    assert config.vision.to_dict() == whole.vision.to_dict()
    edit_json(folder / ("model_config.json" if layout == "sat" else "config.json"), num_attention_heads=7)
    with pytest.raises(ConfigurationError, match=f"{folder}.*7 attention heads"):
        read_config(folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_config(folder / "nothing")


def test_rotary_buffers_are_made_as_upstream_makes_them() -> None:
    for head_dim in (16, 64, 128):
        config = VisualGLMConfig(hidden_size=2 * head_dim, num_attention_heads=2)
        width = head_dim // 2
        upstreams = (1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))).half()
        assert torch.equal(_rotary_buffer(config).read(), upstreams)


@pytest.mark.parametrize("layout", ["native", "sat"])
def test_weights_that_stay_on_disk(odd: Path, tmp_path: Path, layout: str) -> None:
    folder = convert(odd, tmp_path / layout, layout, with_fingerprint=False)
    device_map = {"image_encoder": "cpu", "transformer": "disk", "lm_head": "disk"}
    model = Model.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "off", dtype="float32")
    assert torch.allclose(logits(model), logits(Model.from_pretrained(folder, dtype="float32")), atol=1e-5)


@pytest.mark.parametrize("layout", ["native", "hf"])
def test_larger_images(odd: Path, tmp_path: Path, layout: str) -> None:
    folder = convert(odd, tmp_path / layout, layout, with_fingerprint=False)
    model = Model.from_pretrained(folder, vision_config={"image_size": 56}, dtype="float32")
    assert model.config.vision.image_size == 56 and logits(model).isfinite().all()
    model.save_pretrained(tmp_path / "saved")
    assert_same_model(Model.from_pretrained(tmp_path / "saved"), model)
    back = convert(tmp_path / "saved", tmp_path / "back", "hf", with_fingerprint=False)
    assert_same_model(Model.from_pretrained(back), model)


def test_vocabulary(hf: Path, sat: Path) -> None:
    assert find_vocabulary(hf) == hf / "ice_text.model"
    assert find_vocabulary(sat) is None
    (sat / "ice_text.model").write_bytes(b"x")
    assert (
        find_vocabulary(sat) == find_vocabulary(sat / "1") == find_vocabulary(sat / "latest") == sat / "ice_text.model"
    )


@pytest.mark.parametrize("max_shard_size", ["50GB", "60KB"])
@pytest.mark.parametrize("layout", ["native", "hf"])
def test_saved_variants_open_again(hf: Path, tmp_path: Path, max_shard_size: str, layout: str) -> None:
    model = Model.from_pretrained(hf)
    folder = tmp_path / "saved"
    model.save_pretrained(folder, variant="fp16", max_shard_size=max_shard_size)
    assert not (folder / "model.safetensors").exists()
    if layout == "hf":
        (folder / "config.json").write_bytes((hf / "config.json").read_bytes())
    for options in ({}, {"variant": "fp16"}):
        assert_same_model(Model.from_pretrained(folder, **options), model)
    convert(folder, tmp_path / "converted", with_fingerprint=False)
    assert_same_model(Model.from_pretrained(tmp_path / "converted"), model)
    with pytest.raises(CheckpointError, match="no weights of the variant 'bf16'"):
        Model.from_pretrained(folder, variant="bf16")
    model.save_pretrained(folder, variant="bf16")
    with pytest.raises(CheckpointError, match=r"variants bf16, fp16. Choose one: variant='bf16'"):
        Model.from_pretrained(folder)
    assert_same_model(Model.from_pretrained(folder, variant="fp16"), model)
    assert_same_model(Model.from_pretrained(folder, variant="bf16"), model)
