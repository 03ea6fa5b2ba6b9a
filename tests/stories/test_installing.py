"""Installing / 安装."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.hardware.devices import resolve_device

ROOT = Path(__file__).parents[2]
PACKAGE = Path(visualglm.__file__).parent


def test_cpu_mac_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU, Mac and Windows.

    支持 CPU、Mac 和 Windows。

    Issues: #6, #22, #39, #106, #156, XrayGLM#18

    Before: `.half().cuda()` was hard-coded, and inference imported deepspeed, which cannot be installed on Windows.

    以前：代码里写死了 `.half().cuda()`；推理也会导入 deepspeed，而它在 Windows 上装不上。

    Now: `--device auto` selects CUDA, else MPS, else the CPU, and nothing needs CUDA or deepspeed. Every test runs
    on a CPU. This test shows the selection for each machine, and that nothing moves to CUDA by itself. macOS and
    Windows have not been tested yet: they are steps of `.github/workflows/test.yml`.

    现在：`--device auto` 依次选择 CUDA、MPS、CPU，任何功能都不依赖 CUDA 或 deepspeed，所有测试都在 CPU 上运行。这
    里验证的是各种机器上的设备选择，以及代码不会自行把模型移到 CUDA。macOS 和 Windows 本身尚未实测，只写进了
    `.github/workflows/test.yml`。
    """
    machines = {("cuda", "mps"): "cuda", ("mps",): "mps", (): "cpu"}
    for present, chosen in machines.items():
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: "cuda" in present)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda present=present: "mps" in present)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert resolve_device("auto") == chosen
    sources = {file: file.read_text("utf-8") for file in PACKAGE.rglob("*.py")}
    assert not [file for file, text in sources.items() if re.search(r"\.cuda\(\)|\.half\(\)\.|import deepspeed", text)]
    for system in ("macos-latest", "windows-latest"):
        assert system in (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")


def test_a_missing_package_is_named(show: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing optional package is named.

    缺少可选依赖时会指明包名。

    Issues: #85, #100

    Before: A failed import of bitsandbytes, or of scipy behind it, was swallowed and came back as
    `NameError: HackLinearNF4`.

    以前：导入 bitsandbytes（或它依赖的 scipy）失败会被忽略，随后变成 `NameError: HackLinearNF4`。

    Now: The command stops before any work and says which package is missing and how to install it.

    现在：命令在开始工作之前停下，说明缺少哪个包、如何安装。

        visualglm finetune --data data.json --model visualglm-6b --output runs/qlora --method qlora
    """
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    said = show(2)[0].stderr
    assert "bitsandbytes" in said and "pip install" in said and said.count("\n") == 1


def test_windows_checkouts() -> None:
    """A checkout on Windows works.

    在 Windows 上检出的代码也能用。

    Issues: #48

    Before: Bash scripts got CRLF line endings and failed with `$'\\r': command not found`.

    以前：bash 脚本被转成 CRLF 换行，报错 `$'\\r': command not found`。

    Now: `.gitattributes` fixes the line endings, no text file has CRLF, and every command is `visualglm ...`, not a
    bash script.

    现在：`.gitattributes` 固定换行符，文本文件都没有 CRLF；所有命令都是 `visualglm ...`，不需要 bash 脚本。
    """
    assert "eol=lf" in (ROOT / ".gitattributes").read_text("utf-8")
    kinds = ("*.py", "*.md", "*.toml", "*.sh", "*.txt", "*.c", "*.h", "*.js", "*.yml", "Makefile")
    folders = (ROOT / name for name in ("visualglm", "docs", "tests", "examples", "recipes", "deploy", ".github"))
    files = [
        *ROOT.glob("*.md"),
        ROOT / "Makefile",
        *(file for f in folders for kind in kinds for file in f.rglob(kind)),
    ]
    assert len(files) > 400 and not [file for file in files if b"\r\n" in file.read_bytes()]
