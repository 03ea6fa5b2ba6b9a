"""Training samples: every answer is trained, nothing is truncated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from visualglm.conversation import VisualGLM
from visualglm.datasets.data_files import DataFile
from visualglm.datasets.row_files import RowError
from visualglm.finetuning.data_report import findings
from visualglm.finetuning.dataset import Collator, FinetuningDataset, split_dataset
from visualglm.preprocessing.processor import VisualGLMProcessor

from .conftest import IMAGES, rows, written


@pytest.fixture
def processor(model: Any, tokenizer: Any) -> VisualGLMProcessor:
    return VisualGLM(model, VisualGLMProcessor.for_config(model.config, tokenizer)).processor


def samples(file: str, processor: VisualGLMProcessor, **options: Any) -> FinetuningDataset:
    return FinetuningDataset(DataFile(file), processor, **{"max_tokens": 500, **options})


@pytest.mark.parametrize("sop_loss", [True, False])
def test_every_answer_is_a_sample_with_the_dialogue_before_it(
    tmp_path: Path, processor: VisualGLMProcessor, sop_loss: bool
) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image", "path": IMAGES[0]}, {"type": "text", "text": "a?"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "image", "path": IMAGES[1]}, {"type": "text", "text": "c?"}]},
        {"role": "assistant", "content": "dd"},
    ]
    file = written(tmp_path, [{"messages": messages}, {"prompt": "x", "label": "y"}])
    found = samples(file, processor, sop_loss=sop_loss)
    assert [found[n]["images"] for n in range(3)] == [IMAGES[:1], IMAGES, []]
    for n, answer in enumerate(["b", "dd", "y"]):
        learned = [label for label in found[n]["labels"] if label != -100]
        sop, eop = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
        assert learned == [*[sop][:sop_loss], *processor.tokenizer.encode_plain(answer), eop]
        assert found.lengths[n] == len(found[n]["input_ids"])
    batch = Collator(3)([{**found[n], "pixels": found.pixel_values(found[n])} for n in range(3)])
    assert len(batch["pixel_values"]) == 3 and batch["input_ids"].shape == batch["labels"].shape
    assert "pixel_values" not in Collator(3)([{**found[2], "pixels": []}])


def test_too_long_is_an_error_or_counted_and_never_cut(tmp_path: Path, processor: VisualGLMProcessor) -> None:
    file = written(
        tmp_path, [rows(1)[0], {"prompt": "问" * 300, "label": "a"}, {"img": __file__, "prompt": "q", "label": "a"}]
    )
    with pytest.raises(RowError, match=r"row 2: .*max_tokens is 200"):
        samples(file, processor, max_tokens=200)
    found = samples(file, processor, max_tokens=200, skip_bad=True)
    assert len(found) == 1 and ["row 2" in found.bad[0], "row 3" in found.bad[1]] == [True, True]


def test_check_says_what_is_there(tmp_path: Path, processor: VisualGLMProcessor) -> None:
    text = "\n".join(findings(samples(written(tmp_path), processor)))
    assert "8 rows, 8 answers to train on, 0 invalid" in text
    assert "12.5 %  'aa'" in text
    assert "<img>…</img>" in text and "答:⟦aa⟧" in text


def test_a_dialogue_is_never_on_both_sides(tmp_path: Path, processor: VisualGLMProcessor) -> None:
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    found = samples(written(tmp_path, [{"messages": turn * 3}] * 10), processor)
    learned, held_out = split_dataset(found, 0.2, seed=1)
    assert (len(learned), len(held_out)) == (24, 6)
    assert not {found[n]["row"] for n in learned} & {found[n]["row"] for n in held_out}
    assert split_dataset(found, 0.2, seed=1) == (learned, held_out) != split_dataset(found, 0.2, seed=2)
