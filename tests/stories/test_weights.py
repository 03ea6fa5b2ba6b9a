"""Getting and opening weights / 获取和打开权重."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import visualglm
from visualglm.checkpoints import convert
from visualglm.errors import CheckpointError
from visualglm.hub.download import download, list_files
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer

from ..checkpoints.conftest import assert_same, hf_tensors, sat_tensors
from ..conftest import REFERENCE
from ..hub.fake_hub import FakeHub
from .conftest import answer, train

QKV = "transformer.layers.1.attention.query_key_value.weight"


def test_one_flag_opens_any_weights(show: Any) -> None:
    """One flag opens weights of any format.

    任何格式的权重，同一个参数打开。

    Issues: #9, #60, #61, #177, #242, #333

    Before: Hugging Face's and sat's checkpoints have the same name but need different tools; a script that was
    given the other kind only reported a missing file.

    以前：Hugging Face 格式和 sat 格式同名不同用；脚本拿到另一种格式时只会报缺少某个文件。

    Now: In every command, `--model` accepts a folder of either format, the folder of one step, or this package's
    own format. The answers are equal.

    现在：所有命令的 `--model` 都接受这两种格式的文件夹、其中某一步的子文件夹，以及本项目自己的格式，回答完全相同。

        visualglm convert visualglm-6b visualglm-6b-native --to native
        visualglm ask photos/0.png "What is this?" --model visualglm-6b --greedy --max-new-tokens 8
        visualglm ask photos/0.png "What is this?" --model visualglm-6b-native --greedy --max-new-tokens 8
        visualglm ask photos/0.png "What is this?" --model visualglm-6b-sat --greedy --max-new-tokens 8
        visualglm ask photos/0.png "What is this?" \
                --model visualglm-6b-sat/1 --tokenizer visualglm-6b-sat --greedy --max-new-tokens 8
"""
    answers = {done.stdout for done in show()[1:]}
    assert len(answers) == 1 and answers.pop().strip()


def test_nothing_is_downloaded_unasked(show: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded unless you ask for it.

    不会擅自下载。

    Issues: #23, #73, #111, #155, #231, #259

    Before: Weights that were already on disk were downloaded again, and the tokenizer came from a second
    repository, so nothing worked on a machine without internet access.

    以前：磁盘上已有的权重会重新下载，分词器还要从另一个仓库获取，没有网络的机器无法启动。

    Now: Opening a folder makes no connection. Only a hub id that you type is downloaded.

    现在：打开本地文件夹不产生任何网络连接。只有您写出 hub 名称时才会下载。

        visualglm ask photos/0.png "What is this?" --model visualglm-6b --max-new-tokens 4
        visualglm caption photos -o captions.jsonl --model visualglm-6b --max-new-tokens 4
        visualglm doctor --model visualglm-6b
    """

    def refused(*address: Any) -> None:
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    show()


def test_downloads_resume_and_are_checked(hub: FakeHub, folder: Path, show: Any) -> None:
    """Downloads resume, and are checked.

    下载可以续传，并且会校验。

    Issues: #163, #166, #190, #198, #261, SAT#157

    Before: There was one archive of 14.4 GB, whose address changed three times. An interrupted download started
    again from the beginning, and sometimes the result was a web page of 8 kB.

    以前：只有一个 14.4 GB 的压缩包，地址换了三次；断开后只能重新下载，有时下到的只是 8 kB 的网页。

    Now: `visualglm download` lists files and sizes, resumes in the middle of a file, checks every size and sha256,
    and tells you if the response is a web page. The test uses a simulated hub on the local machine, which truncates
    one file and then damages another.

    现在：`visualglm download` 列出文件和大小，可从文件中间续传，校验每个文件的大小和 sha256；返回的若是网页会直接
    说明。这里使用本机上的模拟 hub：先中断一个文件，再损坏另一个文件。

        visualglm download 6b --dry-run
        visualglm download 6b --output downloaded
    """
    first, second = "pytorch_model-00001-of-00003.bin", "pytorch_model-00002-of-00003.bin"
    hub.cut = {first: 200_000}
    show()
    assert hub.ranges == [f"{first} bytes=200000-"]
    assert (folder / "downloaded" / first).read_bytes() == (hub.folder / first).read_bytes()
    hub.damaged = {second}
    with pytest.raises(CheckpointError, match=f"{second} has another sha256"):
        download(list_files("zai-org/visualglm-6b"))
    hub.answers_html = True
    with pytest.raises(CheckpointError, match="not JSON"):
        list_files("zai-org/visualglm-6b")


def test_no_version_roulette() -> None:
    """No guessing of transformers, sat and deepspeed versions.

    不再为 transformers、sat、deepspeed 的版本组合碰运气。

    Issues: #42, #46, #53, #105, #120, #245, #323, #328, #333, #373

    Before: Code, sat library and checkpoint had to be from the same month, and the model's remote code broke with
    each new version of transformers (`sp_tokenizer`, `padding_side`).

    以前：代码、sat 库和权重必须是同一时期的版本；模型自带的远程代码随 transformers 每次更新而失效（`sp_tokenizer`、
    `padding_side`）。

    Now: The model is a class of this package: no remote code, no sat, no deepspeed. `import visualglm` loads none
    of them, and the tokenizer gives upstream's ids.

    现在：模型就是本包中的类，不用远程代码、不用 sat、不用 deepspeed。`import visualglm` 不会导入它们，分词结果与
    上游一致。
    """
    heavy = "{'transformers', 'torch', 'sat', 'deepspeed', 'bitsandbytes', 'cpm_kernels', 'gradio'}"
    code = f"import visualglm, sys; sys.exit(', '.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    tokenizer = ChatGLMTokenizer(vocab_file=str(REFERENCE / "hf" / "ice_text.model"))
    for case in json.loads((REFERENCE / "tokenizer_cases.json").read_text(encoding="utf-8"))["cases"]:
        assert tokenizer(case["text"])["input_ids"] == case["with_special"], case["text"]


def test_old_configurations_open(folder: Path, show: Any) -> None:
    """Configurations and checkpoints of every age can be opened.

    各个时期的配置和权重都能打开。

    Issues: #109, #188, #236, #239

    Before: A missing key (`pad_token_id`, `model_parallel_size`, `use_qlora`) caused an AttributeError, and the
    format of the download changed in July 2023.

    以前：缺少某个键（`pad_token_id`、`model_parallel_size`、`use_qlora`）就报 AttributeError；2023 年 7 月下载文
    件的格式又变过。

    Now: Both generations of sat's files can be opened, and so can the folders written by upstream's LoRA, QLoRA and
    P-tuning. Missing keys get the defaults of upstream's code.

    现在：两代 sat 文件，以及上游 LoRA、QLoRA、P-tuning 写出的文件夹都能打开；缺少的键取上游代码中的默认值。

        visualglm doctor --model visualglm-6b-2023-05
        visualglm doctor --model finetuned/sat-lora
        visualglm doctor --model finetuned/sat-qlora
        visualglm doctor --model finetuned/sat-ptuning
    """
    old = Path(shutil.copytree(folder / "visualglm-6b-sat", folder / "visualglm-6b-2023-05"))
    raw = json.loads((old / "model_config.json").read_text())
    for key in ("pad_token_id", "model_parallel_size"):
        raw.pop(key, None)
    (old / "model_config.json").write_text(json.dumps(raw))
    for name in ("sat-lora", "sat-qlora", "sat-ptuning"):
        shutil.copytree(REFERENCE.parent / "fine_tuned" / name, folder / "finetuned" / name)
    assert all("FAILED" not in done.stdout for done in show())


def test_wrong_weights_cannot_answer_fluently(folder: Path, show: Any) -> None:
    """Wrong weights cannot answer fluently.

    权重有误时不会再流利地给出错误回答。

    Issues: #178, #179, #189, #220, #225

    Before: An outdated checkpoint or a bug in a version of sat led to fluent answers that had nothing to do with
    the image, without any warning.

    以前：过期的权重或有问题的 sat 版本会给出流利却与图片无关的回答，而且没有任何提示。

    Now: A missing or unexpected tensor is an error that names it. `doctor` compares every tensor and the logits
    with what was stored at conversion and exits with 1, and checks that another image changes the logits.

    现在：缺少或多出张量时会报错并指出名字。`doctor` 把每个张量和 logits 与转换时的记录比对，不符则退出码为 1；还
    会检查换一张图片 logits 是否改变。

        visualglm convert visualglm-6b checked
        visualglm doctor --model checked
        visualglm doctor --model permuted
    """
    convert("visualglm-6b", "permuted")
    file = folder / "permuted" / "model.safetensors"
    tensors = load_file(file)
    tensors[QKV] = tensors[QKV].flip(0)
    save_file(tensors, file, {"format": "pt"})
    assert QKV in show(1)[-1].stdout
    del tensors[QKV]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=QKV):
        visualglm.load("permuted", device="cpu")


def test_4_bits_from_a_file(show: Any) -> None:
    """8-bit and 4-bit weights from a file, with little memory.

    从文件直接读取 8 位和 4 位权重，内存占用小。

    Issues: #28, #69, #105, #141

    Before: Quantization started only after the whole model was in memory, so 16 GB were not enough to produce a
    6 GB model.

    以前：先把完整模型读入内存再量化，16 GB 内存也得不到 6 GB 的模型。

    Now: `visualglm quantize` writes a folder tensor by tensor, and every command can open it. The full size in 4
    bits loads and answers in a process limited to 8 GB (`make full-size-4bit`); this test shows the file sizes with a
    small model.

    现在：`visualglm quantize` 逐个张量写出可直接打开的文件夹。6B 尺寸的 4 位模型可在限制 8 GB 内存的进程中加载并
    回答（`make full-size-4bit`）；本测试用小模型展示文件大小。

        visualglm quantize visualglm-6b visualglm-6b-4bit --quantize 4 --quantize-vision 8 --quantize-vocabulary 8
        visualglm ask photos/0.png "What is this?" --model visualglm-6b-4bit --greedy --max-new-tokens 8
    """
    assert show()[-1].stdout.strip()
    sizes = [
        sum(f.stat().st_size for f in Path(name).glob("*model*.*")) for name in ("visualglm-6b", "visualglm-6b-4bit")
    ]
    assert sizes[1] < 0.75 * sizes[0]  # the small model's norms and vocabulary file weigh more than the 6B's


def test_merged_and_converted(folder: Path, show: Any) -> None:
    """Merge an adapter, convert between formats.

    合并适配器，互转格式。

    Issues: #90, #147, #187, #200, #258, #366

    Before: There was no script to convert between sat and Hugging Face, which order the rows of `query_key_value`
    differently; merging LoRA failed, and P-tuning was not mentioned at all.

    以前：sat 与 Hugging Face 之间没有转换脚本，而两者 `query_key_value` 的行顺序不同；合并 LoRA 会出错，P-tuning
    则完全没有说明。

    Now: `merge` and `convert` write any format, and converting back and forth is bit-exact. Upstream's Hugging Face
    format cannot store a P-tuning prefix; converting one to it is refused, with the formats that can store it.

    现在：`merge` 和 `convert` 可写出任何格式，来回转换后逐位相同。上游的 Hugging Face 格式无法保存 P-tuning 前缀，
    转换时会被拒绝，并说明哪些格式可以保存。

        visualglm merge visualglm-6b runs/lora merged --to hf
        visualglm convert merged merged-sat --to sat
        visualglm convert merged-sat again --to hf
        visualglm merge visualglm-6b runs/ptuning merged-prefix --to hf
    """
    train(folder, "lora", "runs/lora")
    train(folder, "ptuning", "runs/ptuning")
    refused = show(2)[-1]
    assert "native" in refused.stderr and "sat" in refused.stderr
    assert_same(hf_tensors(folder / "again"), hf_tensors(folder / "merged"))
    assert not torch.equal(sat_tensors(folder / "merged-sat")[QKV], hf_tensors(folder / "merged")[QKV])
    with_adapter = visualglm.load("visualglm-6b", device="cpu", dtype="float32", adapter="runs/lora")
    assert answer(visualglm.load("merged-sat", device="cpu", dtype="float32")) == answer(with_adapter)
