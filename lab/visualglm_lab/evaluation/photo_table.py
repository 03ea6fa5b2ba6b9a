"""The photograph test's figures as a table of the model cards, between `<!-- photographs -->` marks."""

from __future__ import annotations

from visualglm.evaluation.scenes.kinds import Language

from .targets import Figures, Words, share

HEAD: Words = {
    "en": "| photographs | asked in Chinese | asked in English | the classifier alone |",
    "zh": "| 照片 | 中文提问 | 英文提问 | 仅用分类器 |",
}
ROWS: dict[str, Words] = {
    "never trained": {"en": "sources never trained on: name right", "zh": "来源从未训练过：名称正确"},
    "given, never trained": {"en": "the same: a name is given without doubt", "zh": "同上：给出名称且未说不确定"},
    "right of those given, never trained": {"en": "the same: right among those", "zh": "同上：其中名称正确"},
    "right or near of those given, never trained": {
        "en": "the same: right, or of the right family",
        "zh": "同上：其中名称或所属大类正确",
    },
    "guessed, never trained": {
        "en": "the same: a name is guessed (“I am not sure, but it may be …”)",
        "zh": "同上：猜测名称（“我不确定，可能是……”）",
    },
    "right of those guessed, never trained": {"en": "the same: right among those", "zh": "同上：其中名称正确"},
    "with a class": {"en": "something ImageNet has a class for", "zh": "ImageNet 有对应类别的事物"},
    "without a class": {"en": "something it has no class for", "zh": "ImageNet 没有对应类别的事物"},
    "trained by version 3": {
        "en": "sources that trained version 3",
        "zh": "第三版权重训练过的来源",
    },
}
FAULTS: Words = {
    "en": "Of {n} answers about 250 photographs (five forms of question in two languages), {foreign} hold words of the "
    "other language, {loops} repeat themselves, and {animals} of {persons} about persons name an animal. Honest "
    "answers to wordings never trained on: {honest}.",
    "zh": "关于 250 张照片的 {n} 个回答（两种语言、五类问法）中，{foreign} 个夹杂另一种语言，{loops} 个重复循环；"
    "{persons} 个关于人物的回答中有 {animals} 个说成了动物。对从未训练过的问法如实作答的比例：{honest}。",
}
GROUPS: dict[str, Words] = {
    "greeting": {"en": "greetings", "zh": "问候"},
    "identity": {"en": "who it is", "zh": "它是谁"},
    "person": {"en": "who a person is", "zh": "人物是谁"},
    "action": {"en": "what a person does", "zh": "人物在做什么"},
    "unseen": {"en": "what no picture shows", "zh": "图中看不出的信息"},
    "knowledge": {"en": "sums and knowledge", "zh": "算术与常识"},
}


def photo_block(figures: Figures, language: Language) -> str:
    """Build the table and its notes from `photo_figures.json`."""
    columns = (figures["names, zh"], figures["names, en"], figures["classifier alone"])
    lines = [HEAD[language], "|---" * 4 + "|"]
    for key, words in ROWS.items():
        cells = [share(column[key]) for column in columns]
        lines.append("| " + " | ".join([words[language], *cells]) + " |")
    return "\n".join(lines) + "\n\n" + _notes(figures, language)


def _notes(figures: Figures, language: Language) -> str:
    answers = figures["500 answers"]
    separator = "；" if language == "zh" else ", "
    honest = separator.join(
        f"{GROUPS[group][language]} {entry['share']:.2f}" for group, entry in figures["open questions"].items()
    )
    return FAULTS[language].format(
        n=answers["n"],
        foreign=answers["foreign words"],
        loops=answers["loops"],
        animals=answers["persons named as animals"],
        persons=answers["persons"],
        honest=honest,
    )
