"""Fine-tuning / 微调."""

from __future__ import annotations

import json
import math
import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import visualglm
from visualglm.adapters.files import base_of
from visualglm.adapters.merge import merge
from visualglm.datasets.data_files import DataFile
from visualglm.errors import PromptError
from visualglm.finetuning import run
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.dataset import FinetuningDataset
from visualglm.finetuning.trainable_model import TRAINED, part_of, prepare_for_training
from visualglm.finetuning.trainer import read_metrics
from visualglm.preprocessing.prompt import Turn, build_prompt

from .conftest import GREEDY, answer, train

pytestmark = pytest.mark.slow


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_a_fine_tuned_model_works_everywhere(adapter: Path, show: Any) -> None:
    """A fine-tuned model works everywhere the base does.

    微调后的模型在所有入口都能用。

    Issues: #127, #154, #280, #308, #345

    Before: The API and the web demo built the base model by name and ignored the fine-tuned weights; when loading
    dropped the LoRA keys, it only printed "unexpected_keys".

    以前：API 和网页演示按名称加载基础模型，忽略训练结果；加载时丢掉 LoRA 参数也只提示一句 “unexpected_keys”。

    Now: Every command has `--adapter`, and `serve` accepts several adapters. All commands give the same answer. An
    adapter of another model is refused.

    现在：每个命令都有 `--adapter`，`serve` 可以同时加载多个，各处回答相同；用在别的模型上会被拒绝。

        visualglm ask photos/0.png "图0？" --model visualglm-6b --adapter runs/lora --greedy --max-new-tokens 8
        visualglm caption photos -o captions.jsonl --question "图0？" \
                --model visualglm-6b --adapter runs/lora --greedy --max-new-tokens 8
"""
    from fastapi.testclient import TestClient

    from visualglm.serving.app import ServerSettings, create_app

    said = show()[0].stdout.strip()
    row = json.loads(Path("captions.jsonl").read_text("utf-8").splitlines()[0])
    model = visualglm.load("visualglm-6b", device="cpu", adapter=adapter)
    messages = [{"role": "user", "content": "图0？"}]
    body = {"model": "lora", "messages": messages, "temperature": 0, "max_tokens": 8}
    with TestClient(create_app(model, ServerSettings("base", with_page=False))) as client:
        served = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert said == row["text"] == answer(model, question="图0？")
    assert served == model.ask(None, "图0？", **GREEDY).text
    model.use_adapter(None)
    assert answer(model, question="图0？") != said


def test_qlora_comes_back(folder: Path) -> None:
    """Weights trained with QLoRA can be loaded again.

    QLoRA 训练的结果能再次加载。

    Issues: #103, #125, #218, #337, #343, #369, #370, XrayGLM#69

    Before: A weight changed its shape when it was moved to a GPU, so a checkpoint saved afterwards did not fit a
    new model.

    以前：权重移到 GPU 后形状会变，之后保存的文件与新建的模型对不上。

    Now: QLoRA writes a separate adapter. It works on the 4-bit base model, on the 16-bit base model, and merged.

    现在：QLoRA 只写出适配器，可用于 4 位基础模型、16 位基础模型，也可合并。
    """
    pytest.importorskip("bitsandbytes")
    adapter = train(folder, "qlora", "runs/qlora")
    for options in ({"quantization_config": run.four_bit()}, {}):
        model = visualglm.load("visualglm-6b", device="cpu", adapter=adapter, **options)
        assert answer(model)
    merged = visualglm.load(merge("visualglm-6b", adapter, folder / "merged"), device="cpu")
    assert answer(merged) == answer(model)


def test_data_of_any_size(folder: Path, show: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of any size.

    数据量不限。

    Issues: #112, #254, #263

    Before: Every image was decoded into memory before the first step: 30,000 images filled a server.

    以前：第一步之前就把所有图片解码进内存，三万张图片就能占满一台服务器。

    Now: Memory holds one file position per row, and an image is opened when its batch is needed. An invalid row is
    reported with its number, or skipped with `--skip-bad`.

    现在：内存中每行只保留一个位置，图片在用到时才打开。出错的行会给出行号，也可用 `--skip-bad` 跳过。

        visualglm finetune --data broken.jsonl --model visualglm-6b --check
    """
    row = {"img": "photos/0.png", "prompt": "图？", "label": "好"}
    write_lines(folder / "broken.jsonl", [row, {**row, "img": "photos/missing.png"}])
    said = show(1)[0].stdout
    assert "1 invalid" in said and "row 2: the image photos/missing.png" in said
    for count in (1000, 5000):
        write_lines(folder / f"{count}.jsonl", [row] * count)
    processor = visualglm.load("visualglm-6b", device="cpu").processor
    monkeypatch.setattr(Image, "open", None)
    FinetuningDataset(DataFile("1000.jsonl"), processor, max_tokens=100)  # imports what it needs
    sizes = []
    tracemalloc.start()
    for count in (1000, 5000):
        before = tracemalloc.get_traced_memory()[0]
        samples = FinetuningDataset(DataFile(f"{count}.jsonl"), processor, max_tokens=100)
        assert len(samples) == count
        sizes.append(tracemalloc.get_traced_memory()[0] - before)
        del samples
    tracemalloc.stop()
    assert sizes[1] - sizes[0] < 4000 * 100, "bytes for 4,000 more rows"


def test_prompts_are_never_cut_in_the_middle(model: Any, tokenizer: Any) -> None:
    """Prompts are never cut in the middle.

    提示不会被从中间截断。

    Issues: #114, #118, #241, #308

    Before: `max_source_length` was 64 and included the 32 image placeholders, so a long question lost its end,
    including `答：`, without a warning.

    以前：`max_source_length` 默认 64，图片的 32 个占位 token 也算在内；问题稍长就会丢掉结尾和 `答：`，没有任何提
    示。

    Now: Images, the last question and `答：` are always kept. Whole turns are dropped, oldest first, and counted; a
    prompt that still does not fit is an error.

    现在：图片、最后一个问题和 `答：` 总会保留；只按整轮从最早的开始省略并计数；仍放不下时报错。
    """
    end = [*tokenizer.encode_plain("答:")[1:], tokenizer.gmask_token_id, tokenizer.bos_token_id]
    slots = {"image_token_id": model.config.image_token_id, "image_length": model.config.image_length}
    refused = 0
    for room in range(20, 200, 7):
        turns = [
            Turn("第一个问题" * 3, "回答" * (room % 5 + 1), 1),
            Turn("第二个？", "好。"),
            Turn("问" * (room % 60 + 1)),
        ]
        try:
            prompt = build_prompt(tokenizer, turns, language="zh", max_tokens=room, **slots)
        except PromptError:
            refused += 1
            continue
        assert len(prompt.input_ids) <= room and prompt.input_ids[-len(end) :] == end
        assert prompt.input_ids.count(model.config.image_token_id) == model.config.image_length
    assert 0 < refused < 26


def test_all_kinds_of_rows_in_one_file(folder: Path, show: Any) -> None:
    """Several turns, no image, several images: all in one file.

    多轮、纯文本、多图，可以放在同一个文件里。

    Issues: #118, #195, #331, #347, #357, #365, #376

    Before: A row had one image and one question; any other data required changes in the code.

    以前：一行只能有一张图和一个问题，其他数据都要改代码。

    Now: Rows in the formats of OpenAI, LLaVA and ms-swift can be mixed with upstream's. Every answer of a chat is
    learned in the context of the whole chat before it.

    现在：OpenAI、LLaVA、ms-swift 等格式可与上游格式混用；多轮对话的每个回答都会学习，并带上之前的完整对话。

        visualglm finetune --data mixed.jsonl --model visualglm-6b --check
        visualglm finetune --data mixed.jsonl \
                --model visualglm-6b --output runs/mixed --device cpu --set epochs=1 --set answers=0
"""
    both = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
    shown = [{"type": "image", "path": f"photos/{n}.png"} for n in (0, 1)]
    two_images = [{"role": "user", "content": [*shown, {"type": "text", "text": "differ?"}]}, both[1]]
    write_lines(
        folder / "mixed.jsonl",
        [
            {"messages": both * 3},
            {"messages": two_images},
            {
                "image": "photos/0.png",
                "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}],
            },
            {"query": "q", "response": "a"},
            {"img": "photos/1.png", "prompt": "图？", "label": "好"},
        ],
    )
    assert "5 rows, 7 answers to train on, 0 invalid" in show()[0].stdout


def test_upstreams_data_trains_as_it_is(folder: Path, show: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's data files can be used as they are.

    上游的数据文件可以直接训练。

    Issues: #280, XrayGLM#10, XrayGLM#12

    Before: Image paths were relative to the folder in which the script was started.

    以前：图片路径相对于启动脚本时所在的目录。

    Now: `[{"img", "prompt", "label"}]` is read unchanged; paths are relative to the file, or else to the working
    directory.

    现在：`[{"img", "prompt", "label"}]` 原样读取；图片路径先相对于数据文件，再相对于当前目录。

        visualglm finetune --data ../data.json --model ../visualglm-6b --check
    """
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert "8 rows, 8 answers to train on, 0 invalid" in show()[0].stdout


def test_epochs_and_a_plan(folder: Path, show: Any) -> None:
    """The length is given in epochs, and the plan is printed.

    训练长度按 epoch 给出，并先打印计划。

    Issues: #173, #267, #294

    Before: `--train-iters 300` regardless of the data: 26 images were seen dozens of times, but only a fraction of
    300,000 images.

    以前：无论数据多少都是 `--train-iters 300`：26 张图片会看几十遍，30 万张则只看一小部分。

    Now: Samples, steps, trainable parameters and the memory estimate are printed before the first step.

    现在：第一步之前会打印样本数、步数、可训练参数量和内存估计。

        visualglm finetune --data data.json --model visualglm-6b --output runs/plan --device cpu --set epochs=2 \
                --set batch=3 --set answers=0 --set validation_share=0
"""
    said = show()[0].stdout
    steps = 2 * math.ceil(8 / 3)
    assert f"steps: {steps // 2} per epoch, {steps} in total" in said
    assert "trainable parameters: " in said and "memory: about " in said
    assert max(row["step"] for row in read_metrics(folder / "runs" / "plan" / "metrics.jsonl")) == steps


def test_loss_validation_and_answers_are_shown(folder: Path, show: Any) -> None:
    """Loss, validation and sample answers are shown.

    能看到 loss、验证结果和示例回答。

    Issues: #124, #146, #253, #362

    Before: Training and validation used the same file, and nothing measured what had been learned.

    以前：训练和验证用的是同一个文件，也没有办法衡量学到了什么。

    Now: Some of the rows are held out. The output folder has the losses (`metrics.jsonl`), the fraction of correct
    answers before and after (`result.json`) and a page with questions, images and answers (`report.html`).

    现在：自动留出一部分数据。输出文件夹中有 loss（`metrics.jsonl`）、训练前后的正确率（`result.json`），以及带问
    题、图片和回答的报告（`report.html`）。

        visualglm finetune --data data.json --model visualglm-6b --output runs/shown --device cpu \
                --set epochs=2 --set validation_share=0.25
"""
    show()
    output = folder / "runs" / "shown"
    metrics = read_metrics(output / "metrics.jsonl")
    assert any("eval_loss" in row for row in metrics) and {"loss", "learning_rate", "grad_norm"} <= metrics[0].keys()
    assert json.loads((output / "result.json").read_text())["asked"] == 2
    assert "图" in (output / "report.html").read_text("utf-8")


def test_choose_what_trains(folder: Path) -> None:
    """Choose what to train: language model, vision, Q-Former, projection.

    自己选择训练哪些部分：语言模型、视觉编码器、Q-Former、投影层。

    Issues: #186, #204, #237, #255, LAVIS#409

    Before: Training the vision side required editing the model's code, and in float16 the loss became NaN.

    以前：要训练图像部分得改模型代码，而且 float16 下 loss 会变成 NaN。

    Now: `[parts]` sets each part to `frozen`, `lora` or `full`. Trained parameters are kept in float32, whatever
    the dtype of the rest.

    现在：`[parts]` 中对每部分设置 `frozen`、`lora` 或 `full`；被训练的参数一律用 float32，其余部分不受影响。
    """
    parts = ("parts.vision='lora'", "parts.qformer='full'", "parts.projection='full'", "dtype='bfloat16'")
    output = train(folder, "lora", "runs/parts", *parts)
    assert all(math.isfinite(row["loss"]) for row in read_metrics(output / "metrics.jsonl") if "loss" in row)
    recipe = read_finetuning(None, parts, data="-", output="-", method="lora", model="visualglm-6b")
    model = visualglm.load("visualglm-6b", device="cpu", dtype="bfloat16").model
    ready = prepare_for_training(model, recipe, base_of("visualglm-6b"))
    trained = {name: p for name, p in ready.model.named_parameters() if p.requires_grad}
    assert {part_of(name) for name in trained} == {"language", "vision", "qformer", "projection"}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all("lora" in name for name in trained if part_of(name) in ("language", "vision"))


def test_resume_exactly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run resumes exactly.

    中断的训练可以精确续训。

    Issues: #230, #300, #301

    Before: "Resume" loaded the weights as a new base model, without optimizer state, schedule or position in the
    data; selecting a step meant editing a text file.

    以前：所谓续训只是把权重当作新的基础模型，没有优化器、学习率和数据位置；选择某一步要手工修改文本文件。

    Now: `--resume` is bit-identical to a run that was never interrupted, and `--adapter DIR@STEP` selects a step.

    现在：`--resume` 与从未中断的训练逐位相同；`--adapter DIR@STEP` 选择某一步。
    """
    whole = train(folder, "lora", "runs/whole")
    save = run.InterruptCallback.on_step_end

    def stopped(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(run.InterruptCallback, "on_step_end", stopped)
        with pytest.raises(AssertionError):
            train(folder, "lora", "runs/parts")
    parts = train(folder, "lora", "runs/parts", resume=True)
    one, other = (load_file(output / "checkpoint-4" / TRAINED) for output in (whole, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert visualglm.load("visualglm-6b", device="cpu", adapter=f"{parts}@2").adapters
