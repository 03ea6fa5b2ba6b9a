"""Draw docs/images/architecture.svg and architecture_zh.svg from the tables below.

Run: `python docs/draw_architecture.py`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

IMAGES = Path(__file__).with_name("images")
DRAWINGS = {"en": "architecture.svg", "zh": "architecture_zh.svg"}
WIDTH, BOX, GAP, LEFT = 1080, 46, 14, 20
FONT = "system-ui, 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, monospace"

TIP = (
    '<marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
    '<path d="M0,0 L6,3 L0,6 z" fill="#64748b"/></marker>'
)

FLOW = {
    "en": [
        [
            "image",
            "preprocessing/images.py|pixel_values [B,3,224,224]",
            "network/vision.py|[B,257,1408]",
            "network/qformer.py|[B,32,768]",
            "projection|[B,32,4096]",
        ],
        [
            "question",
            "preprocessing/prompt.py|<img></img>问：…",
            "preprocessing/tokenizer.py|input_ids [B,T]",
            "word embeddings|[B,T,4096]",
            "32 image placeholders|filled by the image",
        ],
        [
            "answer",
            "preprocessing/tokenizer.py|ids to text",
            "inference/|one token after another",
            "LM head|logits [B,T,V]",
            "network/glm.py|28 blocks, KV cache",
        ],
    ],
    "zh": [
        [
            "图片",
            "preprocessing/images.py|pixel_values [B,3,224,224]",
            "network/vision.py|[B,257,1408]",
            "network/qformer.py|[B,32,768]",
            "投影层|[B,32,4096]",
        ],
        [
            "问题",
            "preprocessing/prompt.py|<img></img>问：…",
            "preprocessing/tokenizer.py|input_ids [B,T]",
            "词嵌入|[B,T,4096]",
            "32 个图像占位 token|填入图像特征",
        ],
        [
            "回答",
            "preprocessing/tokenizer.py|id 转文本",
            "inference/|逐个生成 token",
            "LM head|logits [B,T,V]",
            "network/glm.py|28 层，KV 缓存",
        ],
    ],
}
"""Three rows of stages, `name|detail`; the last one runs from right to left."""

LAYERS = [
    ("cli",),
    ("vllm_plugin",),
    ("serving",),
    ("finetuning", "pretraining", "captioning", "compat", "benchmarking"),
    ("training",),
    ("evaluation",),
    ("datasets",),
    ("conversation.py", "auto.py"),
    ("adapters", "explanation"),
    ("model.py",),
    ("checkpoints",),
    ("inference",),
    ("preprocessing", "hardware"),
    ("network", "quantization"),
    ("kernels", "reporting"),
    ("files", "hub", "mini"),
    ("errors.py",),
]
"""From the top down; a folder imports only what is drawn below it (`tests/test_architecture.py` checks this table)."""

CAPTIONS = {
    "en": (
        "What an image and a question go through",
        "Folders of visualglm/: each imports only what is below it",
        "lab/ (a distribution of its own) imports visualglm, never the reverse",
    ),
    "zh": (
        "图片与问题的处理流程",
        "visualglm/ 的目录：只引用位于其下方的目录",
        "lab/（独立的发行包）引用 visualglm，反之不可",
    ),
}


def text(
    x: float, y: float, words: str, size: int = 14, family: str = FONT, anchor: str = "middle", fill: str = "#1f2937"
) -> str:
    """One line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-family="{family}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, label: str, fill: str, height: float = BOX) -> str:
    """Draw a rounded box with `name|detail` in it."""
    name, _, detail = label.partition("|")
    lines = [
        text(
            x + width / 2,
            y + (19 if detail else height / 2 + 5),
            name,
            13,
            MONO if "." in name or "/" in name else FONT,
        )
    ]
    if detail:
        lines.append(text(x + width / 2, y + 36, detail, 12, MONO if "[" in detail else FONT, fill="#4b5563"))
    rectangle = (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" stroke="#94a3b8"/>'
    )
    return rectangle + "".join(lines)


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw a straight arrow."""
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="#64748b" stroke-width="1.5" marker-end="url(#tip)"/>'


def draw_flow(language: str, top: float) -> list[str]:
    """Draw the three rows, and the arrows between them."""
    first, space = 80.0, 26.0
    width = (WIDTH - 2 * LEFT - first - 4 * space) / 4
    xs = [LEFT, *(LEFT + first + space + column * (width + space) for column in range(4))]
    parts = []
    for row, stages in enumerate(FLOW[language]):
        y = top + row * (BOX + 30)
        for column, label in enumerate(stages):
            parts.append(box(xs[column], y, first if column == 0 else width, label, "#e0f2fe" if column else "#fef3c7"))
        for column in range(4):
            begin, end = xs[column] + (first if column == 0 else width) + 3, xs[column + 1] - 4
            if row == 2:
                begin, end = end + 1, begin + 1
            parts.append(arrow(begin, y + BOX / 2, end, y + BOX / 2))
    middle = xs[4] + width / 2
    parts += [
        arrow(middle, top + row * (BOX + 30) + BOX + 3, middle, top + (row + 1) * (BOX + 30) - 4) for row in (0, 1)
    ]
    return parts


def draw_layers(top: float) -> list[str]:
    """Draw the folders, one layer per line."""
    parts = []
    for row, names in enumerate(LAYERS):
        width = (WIDTH - 2 * LEFT - GAP * (len(names) - 1)) / len(names)
        for column, name in enumerate(names):
            label = name if name.endswith(".py") else f"{name}/"
            parts.append(box(LEFT + column * (width + GAP), top + row * 34, width, label, "#dcfce7", 28))
    return parts


def draw(language: str) -> str:
    """Return the whole image as SVG."""
    flow, layers, laboratory = CAPTIONS[language]
    second = 70 + 3 * (BOX + 30) + 20
    height = second + 22 + len(LAYERS) * 34 + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<defs>{TIP}</defs><rect width="100%" height="100%" fill="#ffffff"/>',
        text(LEFT, 36, flow, 18, anchor="start"),
        *draw_flow(language, 56),
        text(LEFT, second, layers, 18, anchor="start"),
        *draw_layers(second + 16),
        text(LEFT, height - 16, laboratory, 14, anchor="start", fill="#4b5563"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for language, name in DRAWINGS.items():
        (IMAGES / name).write_text(draw(language), encoding="utf-8")
