"""Wordings of questions, and fixed answers.

`QUESTIONS[task][language]` lists the wordings of a task's question; `{x}` and `{y}` are replaced by names.
"""

from __future__ import annotations

from ...preprocessing.describe_questions import DESCRIBE_QUESTIONS
from .kinds import Language

QUESTIONS: dict[str, dict[Language, tuple[str, ...]]] = {
    "describe": DESCRIBE_QUESTIONS,
    "list": {
        "zh": (
            "这张图片里有什么？",
            "图里有什么？",
            "图中有什么？",
            "图片里有什么东西？",
            "你看到了什么？",
            "你能看到什么？",
            "画面里有什么？",
            "图上有什么？",
            "这张图里有哪些东西？",
            "图里有什么",
            "里面有什么？",
            "图中有哪些物体？",
            "这张图画的是什么？",
            "画了什么？",
        ),
        "en": (
            "What is in the picture?",
            "What do you see?",
            "What is in this image?",
            "What can you see in the picture?",
            "What does the picture show?",
            "What objects are there?",
            "What's in the picture?",
            "What is shown here?",
            "Which objects are in the image?",
            "what do you see",
            "What things can you see?",
            "What is there?",
        ),
    },
    "name": {
        "zh": (
            "这是什么？",
            "这是什么东西？",
            "这是什么",
            "图里的东西是什么？",
            "这个物体是什么？",
            "这是个什么？",
            "画的是什么？",
        ),
        "en": (
            "What is this?",
            "What is it?",
            "What's this?",
            "What object is this?",
            "what is this",
            "Name the object.",
        ),
    },
    "name by colour": {
        "zh": ("{x}的东西是什么？", "{x}的是什么？", "{x}的物体是什么？", "那个{x}的东西是什么？"),
        "en": ("What is the {x} thing?", "What is the {x} object?", "Which object is {x}?", "What thing is {x}?"),
    },
    "name by place": {
        "zh": ("{x}是什么？", "{x}有什么？", "图片{x}是什么？", "图的{x}有什么？", "在{x}的是什么？"),
        "en": ("What is {x}?", "What is {x} of the picture?", "What do you see {x}?", "Which object is {x}?"),
    },
    "shapes": {
        "zh": (
            "图中有哪些形状？",
            "有什么形状？",
            "图里有什么图形？",
            "这是什么形状？",
            "这是什么图形？",
            "图中的形状是什么？",
        ),
        "en": ("Which shapes are there?", "What shapes do you see?", "What shape is this?", "What shape is it?"),
    },
    "colour": {
        "zh": (
            "{x}是什么颜色的？",
            "{x}是什么颜色？",
            "{x}的颜色是什么？",
            "{x}什么颜色？",
            "图中的{x}是什么颜色的？",
            "这个{x}是什么颜色的？",
        ),
        "en": (
            "What colour is the {x}?",
            "What color is the {x}?",
            "What is the colour of the {x}?",
            "What is the color of the {x}?",
            "what color is the {x}",
        ),
    },
    "total": {
        "zh": (
            "图中有几个物体？",
            "一共有几个东西？",
            "有几个物体？",
            "图里有多少个东西？",
            "总共有多少个物体？",
            "图片里有几样东西？",
            "有多少个物体？",
        ),
        "en": (
            "How many objects are there?",
            "How many things are in the picture?",
            "Count the objects.",
            "How many objects do you see?",
            "How many objects are in the image?",
            "How many things are there in total?",
        ),
    },
    "count": {
        "zh": (
            "有几{m}{x}？",
            "图中有几{m}{x}？",
            "图里有多少{m}{x}？",
            "有多少{m}{x}？",
            "一共有几{m}{x}？",
            "{x}有几{m}？",
            "数一数{x}有几{m}。",
        ),
        "en": (
            "How many {x} are there?",
            "How many {x} are in the picture?",
            "How many {x} do you see?",
            "Count the {x}.",
            "How many {x} can you see?",
            "how many {x}",
        ),
    },
    "where": {
        "zh": (
            "{x}在哪里？",
            "{x}在哪儿？",
            "{x}在图片的什么位置？",
            "{x}在什么位置？",
            "{x}在哪？",
            "图中的{x}在哪里？",
        ),
        "en": (
            "Where is the {x}?",
            "Where in the picture is the {x}?",
            "Where can I find the {x}?",
            "What is the position of the {x}?",
            "where is the {x}",
            "In which part of the picture is the {x}?",
        ),
    },
    "side": {
        "zh": ("{x}在{y}的左边还是右边？", "{x}在{y}的哪边，左边还是右边？", "{x}是在{y}的左边还是右边？"),
        "en": ("Is the {x} left or right of the {y}?", "Is the {x} to the left or to the right of the {y}?"),
    },
    "height": {
        "zh": ("{x}在{y}的上面还是下面？", "{x}在{y}上方还是下方？", "{x}是在{y}的上面还是下面？"),
        "en": ("Is the {x} above or below the {y}?", "Is the {x} over or under the {y}?"),
    },
    "exists": {
        "zh": (
            "图中有{x}吗？",
            "有{x}吗？",
            "图里有没有{x}？",
            "这张图片里有{x}吗？",
            "有没有{x}？",
            "你看到{x}了吗？",
            "图片中有{x}吗？",
        ),
        "en": (
            "Is there {x}?",
            "Is there {x} in the picture?",
            "Do you see {x}?",
            "Can you see {x}?",
            "Does the picture show {x}?",
            "Is there {x} in this image?",
        ),
    },
    "background": {
        "zh": (
            "背景是什么？",
            "背景是什么样的？",
            "背景是什么颜色？",
            "这是在什么地方？",
            "图片的背景是什么？",
            "这是哪里？",
            "背景是什么颜色的？",
            "这张图片可能是在什么场所拍摄的？",
            "这张图片是在哪里拍的？",
        ),
        "en": (
            "What is the background?",
            "What colour is the background?",
            "What is in the background?",
            "Where was this?",
            "What place is this?",
            "What is behind the objects?",
            "What color is the background?",
            "Where was this picture taken?",
        ),
    },
    "category": {
        "zh": ("这是哪一类东西？", "这属于哪一类？", "它属于什么类别？", "这是什么类别的东西？", "这是哪类东西？"),
        "en": ("What kind of thing is it?", "Which category does it belong to?", "What sort of thing is this?"),
    },
    "category by place": {
        "zh": ("{x}的东西属于哪一类？", "{x}的是哪一类东西？", "{x}的东西是什么类别？"),
        "en": ("What kind of thing is {x}?", "Which category does the object {x} belong to?"),
    },
    "any": {
        "zh": ("图中有{x}吗？", "图里有没有{x}？", "有{x}吗？", "这张图片里有{x}吗？"),
        "en": ("Is there {x}?", "Is there {x} in the picture?", "Do you see {x}?", "Can you see {x}?"),
    },
    "size": {
        "zh": ("{x}和{y}哪个更大？", "{x}和{y}哪个大？", "哪个更大，{x}还是{y}？"),
        "en": ("Which is larger, the {x} or the {y}?", "Which one is bigger, the {x} or the {y}?"),
    },
    "same colour": {
        "zh": ("{x}和{y}颜色一样吗？", "{x}和{y}的颜色相同吗？", "{x}跟{y}是一个颜色吗？"),
        "en": ("Do the {x} and the {y} have the same colour?", "Are the {x} and the {y} the same color?"),
    },
    "odd": {
        "zh": ("哪一个不是{x}？", "哪个不是{x}？", "图中哪个东西不是{x}？"),
        "en": ("Which one is not {x}?", "Which object is not {x}?", "What is not {x}?"),
    },
    "inside": {
        "zh": ("{x}里面是什么？", "{x}里有什么？", "{x}的里面是什么？"),
        "en": ("What is inside the {x}?", "What is in the {x}?", "What does the {x} contain?"),
    },
    "is of": {
        "zh": ("{x}是什么？", "{x}属于哪一类？", "{x}是哪类东西？"),
        "en": ("What is {x}?", "What kind of thing is {x}?"),
    },
    "called": {
        "zh": ("{x}用英语怎么说？", "{x}的英语是什么？", "{x}的英文怎么说？"),
        "en": ("What is “{x}” in Chinese?", "How do you say “{x}” in Chinese?", "What is the Chinese word for “{x}”?"),
    },
    "it colour": {
        "zh": ("它是什么颜色的？", "它是什么颜色？", "是什么颜色的？", "什么颜色？", "它的颜色呢？"),
        "en": ("What colour is it?", "What color is it?", "And its colour?", "Which colour is it?"),
    },
    "it where": {
        "zh": ("它在哪里？", "它在什么位置？", "在哪里？", "它在图片的哪里？"),
        "en": ("Where is it?", "And where is it?", "Where in the picture is it?"),
    },
}

OFF_TOPIC: dict[Language, tuple[str, ...]] = {
    "zh": (
        "今天天气怎么样？",
        "这是谁画的？",
        "他叫什么名字？",
        "这张图是什么时候画的？",
        "这个多少钱？",
        "为什么？",
        "这里有多远？",
        "它是谁的？",
        "你喜欢它吗？",
        "它重不重？",
        "画家是谁？",
        "上面写了什么字？",
        "他们在说什么？",
        "这是哪一年？",
        "明天会下雨吗？",
        "它好吃吗？",
    ),
    "en": (
        "What is the weather like today?",
        "Who painted this?",
        "What is his name?",
        "When was this made?",
        "Why?",
        "How much does it cost?",
        "Who owns it?",
        "Do you like it?",
        "How heavy is it?",
        "What does the text say?",
        "What are they talking about?",
        "Which year is it?",
        "Will it rain tomorrow?",
        "Does it taste good?",
    ),
}
ABOUT_TEXT = ("上面写了什么字？", "What does the text say?")
"""Questions that letters in an image would answer."""
NOT_SHOWN: dict[Language, str] = {
    "zh": "我不确定，图里看不出来。",
    "en": "I am not sure, the picture does not show it.",
}

GREETINGS: dict[Language, tuple[str, ...]] = {
    "zh": ("你好", "你好！", "您好", "你是谁？", "你能做什么？", "你会什么？", "介绍一下你自己。"),
    "en": ("Hello", "Hi", "Hello!", "Who are you?", "What can you do?", "Hi there!", "Introduce yourself."),
}
GREETED: dict[Language, str] = {
    "zh": "你好！我是一个小模型，可以回答关于简单图片的问题。",
    "en": "Hello! I am a small model. I answer questions about simple pictures.",
}
NO_IMAGE: dict[Language, str] = {"zh": "请先给我一张图片。", "en": "Please show me a picture first."}

ZH_NUMBERS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")
EN_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
