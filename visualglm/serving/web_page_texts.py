"""What the page says itself, in Chinese and English, and its examples. Nothing else."""

from __future__ import annotations

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "greeting": "# VisualGLM\nTalk with a image in Chinese or English. Answers may be wrong: check what matters.",
        "empty": "Upload or paste a image and ask about it. Words alone are fine too.",
        "ask": "Ask about the image ...",
        "settings": "Camera and sampling",
        "camera": "A image from the camera, for the whole dialogue",
        "temperature": "Temperature (0: always the likeliest word)",
        "top_p": "Top-p",
        "longest": "Longest answer, in tokens",
        "model": "Model",
        "examples": "Examples",
    },
    "zh": {
        "greeting": "# VisualGLM\n用中文或英文与图片对话。回答可能有误，重要的内容请核实。",
        "empty": "上传或粘贴一张图片，然后提问；只用文字聊天也可以。",
        "ask": "就图片提问……",
        "settings": "摄像头与采样",
        "camera": "用摄像头拍一张图片，整个对话都会看到它",
        "temperature": "温度（0：总是选最可能的词）",
        "top_p": "Top-p",
        "longest": "回答的最大长度（词元数）",
        "model": "模型",
        "examples": "示例",
    },
}
WORDS["zh-CN"] = WORDS["zh-TW"] = WORDS["zh"]

EXAMPLES = [
    ("moon", "这张图片里有什么？"),
    ("house", "描述这张图片。"),
    ("star", "What is in the picture?"),
    ("circles", "How many objects are there?"),
]
