"""Answering / 推理与服务."""

from __future__ import annotations

import base64
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.errors import UsageError
from visualglm.serving.app import ServerSettings, create_app

from ..conftest import REFERENCE
from .conftest import GREEDY, QUESTION

BODIES: list[Any] = [
    None,
    [],
    {},
    {"messages": []},
    {"messages": "hello"},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "photos/0.png"}}]}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
        ]
    },
    {"messages": [{"role": "user", "content": "hi"}], "n": 20},
    {"text": None},
    {"text": "hi", "image": "photos/0.png"},
    {"text": "hi", "image": "AAAA"},
    {"text": "hi", "history": [["only one"]]},
    {"text": "hi", "top_p": 5},
]


def test_batches_and_images_encoded_once(show: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, and an image encoded once.

    批量推理，图片只编码一次。

    Issues: #89, #102, #149, #232, #299

    Before: Only one image at a time, and it was encoded again for every question: 300,000 images took more than a
    day.

    以前：一次只能处理一张图，每问一次都重新编码；30 万张图片一天也跑不完。

    Now: `caption` answers whole folders in batches, gives each image the same answer as if it were alone, and
    resumes where it stopped. A second question about an image does not encode it again.

    现在：`caption` 批量处理整个文件夹，每张图的回答与单独提问相同，中断后可继续；对同一张图再次提问不会重新编码。

        visualglm caption photos -o captions.jsonl --question "What is this?" --batch-size 8 \
                --model visualglm-6b --greedy --max-new-tokens 8
        visualglm caption photos -o captions.jsonl --question "What is this?" --batch-size 8 \
                --model visualglm-6b --greedy --max-new-tokens 8
"""
    show()
    rows = [json.loads(line) for line in Path("captions.jsonl").read_text("utf-8").splitlines()]
    model = visualglm.load("visualglm-6b", device="cpu")
    assert {row["image"]: row["text"] for row in rows} == {
        f"{n}.png": model.ask(f"photos/{n}.png", QUESTION, **GREEDY).text for n in (0, 1)
    }
    encoded: list[Any] = []
    encode = type(model.model).encode_images
    monkeypatch.setattr(type(model.model), "encode_images", lambda *given: encoded.append(1) or encode(*given))
    conversation = model.conversation("photos/0.png")
    conversation.ask(QUESTION, **GREEDY)
    conversation.ask("And now?", **GREEDY)
    assert len(encoded) == 1


def test_bad_requests_are_never_a_500(opened: visualglm.VisualGLM) -> None:
    """The API gives a reason for bad requests, and streams.

    API 会说明请求错在哪里，并支持流式输出。

    Issues: #104, #156, #161, #191

    Before: A path instead of base64, or base64 with line breaks (as the README's command produces it), resulted in
    a 500. There was no streaming, and the image was mandatory.

    以前：传路径而不是 base64，或者传 README 命令生成的带换行的 base64，都会返回 500；没有流式输出，而且必须有图片。

    Now: An invalid request gets a 4xx with one sentence. `/v1/chat/completions` streams the same text, and
    `POST /` returns a history that includes the new turn.

    现在：请求有误时返回 4xx 和一句说明。`/v1/chat/completions` 支持流式输出且内容一致，`POST /` 返回的历史包含新
    一轮对话。
    """
    from fastapi.testclient import TestClient

    encoded = base64.encodebytes((REFERENCE / "images" / "rgb.png").read_bytes()).decode()
    messages = [{"role": "user", "content": QUESTION}]
    asked = {"model": "visualglm-mini", "messages": messages, "temperature": 0, "max_tokens": 8}
    with TestClient(create_app(opened, ServerSettings(with_page=False))) as client:
        for body in BODIES:
            for path in ("/", "/v1/chat/completions"):
                reply = client.post(path, json=body)
                assert 400 <= reply.status_code < 500, (path, body)
        whole = client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
        lines = client.post("/v1/chat/completions", json={**asked, "stream": True}).text.split("\n\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == whole
        reply = client.post("/", json={"image": encoded, "text": QUESTION, "history": []}).json()
        assert reply["history"] == [[QUESTION, reply["result"]]]


def test_another_resolution(folder: Path) -> None:
    """Change the resolution with one call.

    一次调用即可改变分辨率。

    Issues: #82, #257, #291, #296, #302

    Before: The size of 224 pixels was hard-coded in three places; changing one of them caused a crash or saved no
    memory.

    以前：224 像素硬编码在三处，只改一处要么报错，要么显存占用不变。

    Now: `model.resize_image_size` interpolates the position embeddings. The size is saved with the model, and the
    processor follows it. Sizes other than 224 work but are untrained: fine-tune after the change.

    现在：`model.resize_image_size` 对位置编码插值，尺寸随模型保存，处理器自动跟随。224 以外的尺寸可以运行但未经训
    练，修改后需要微调。
    """
    model = visualglm.load("visualglm-6b", device="cpu").model
    patch, before = model.config.vision.patch_size, model.config.vision.image_size
    after = before + 2 * patch
    model.resize_image_size(after)
    model.save_pretrained("larger")
    for name in ("ice_text.model", "tokenizer_config.json"):
        (folder / "larger" / name).write_bytes((folder / "visualglm-6b" / name).read_bytes())
    again = visualglm.load("larger", device="cpu")
    assert again.pixel_values("photos/0.png").shape[-2:] == (after, after)
    rows = again.model.image_encoder.vit.transformer.position_embeddings.weight.shape[0]
    assert rows == (after // patch) ** 2 + 1
    assert again.ask("photos/0.png", QUESTION, **GREEDY).completion_tokens


def test_the_device_is_yours_and_the_start_is_quiet(folder: Path) -> None:
    """You choose the device, and the start is quiet.

    设备由您选择，启动时没有多余的日志。

    Issues: #41, #55, #80, #102, #274, #303, #353

    Before: `CUDA_VISIBLE_DEVICES` was overwritten with 0, and log lines about RANK and WORLD_SIZE looked like
    errors. Memory seemed to grow without limit.

    以前：`CUDA_VISIBLE_DEVICES` 会被改成 0；关于 RANK 和 WORLD_SIZE 的日志被当成错误；内存看起来一直在涨。

    Now: The variable is not changed, `--device cuda:1` selects a device, and a device that does not exist is
    reported in one sentence. A command prints only its answer, and memory use stays constant. This was tested on a
    CPU, because the project has no GPU.

    现在：不改动该变量，用 `--device cuda:1` 选择；设备不存在时只报一句话。命令只输出回答，内存保持平稳。本项目没
    有 GPU，这里在 CPU 上验证。

        visualglm ask photos/0.png "What is this?" --model visualglm-6b --max-new-tokens 4
    """
    command = [sys.executable, "-m", "visualglm", "ask", "photos/0.png", QUESTION, "--model", "visualglm-6b"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "1"}
    done = subprocess.run(
        [*command, "--max-new-tokens", "4"], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr == "" and done.stdout.count("\n") <= 5
    model = visualglm.load("visualglm-6b", device="cpu")
    tensors = []
    for _ in range(4):
        model.ask("photos/0.png", QUESTION, **GREEDY)
        tensors.append(_count_tensors())
    assert tensors[1] == tensors[3]
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="not available"):
            visualglm.load("visualglm-6b", device="cuda:1")


def _count_tensors() -> int:
    """Tensors that are alive in this process."""
    gc.collect()
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())
