"""scenes/vocabulary: what can be drawn, and its names in Chinese and English.

Twenty kinds (eight shapes, twelve drawn things), ten colours, eleven backgrounds, nine zones. The first name of a kind
is the one that answers use; the others are understood in questions. Knows nothing about drawing or wording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Kind:
    """A thing that can be drawn. `measure` is its Chinese measure word, `plural` its English plural."""

    key: str
    category: Literal["shape", "thing"]
    zh: tuple[str, ...]
    en: tuple[str, ...]
    plural: str
    measure: str = "个"


@dataclass(frozen=True)
class Colour:
    """A colour's names and the tones that count as it (pure and CSS tones among them)."""

    key: str
    zh: str
    tones: tuple[RGB, ...]


@dataclass(frozen=True)
class Background:
    """What lies behind the objects: one tone (`texture` None), or a drawn place."""

    key: str
    zh: str
    tones: tuple[RGB, ...]
    texture: Literal["grass", "sea", "night", "sand"] | None = None


@dataclass(frozen=True)
class Zone:
    """A ninth of the picture: `zh` as in 在左上方, `en` as in 'in the top left'."""

    column: int
    row: int
    zh: str
    en: str


KINDS: tuple[Kind, ...] = (
    Kind("circle", "shape", ("圆形", "圆", "圆圈"), ("circle", "disc"), "circles"),
    Kind("square", "shape", ("正方形", "方形", "方块"), ("square",), "squares"),
    Kind("triangle", "shape", ("三角形", "三角"), ("triangle",), "triangles"),
    Kind("star", "shape", ("星形", "星星", "五角星"), ("star",), "stars"),
    Kind("heart", "shape", ("心形", "爱心", "心"), ("heart",), "hearts"),
    Kind("rectangle", "shape", ("长方形", "矩形"), ("rectangle",), "rectangles"),
    Kind("diamond", "shape", ("菱形", "钻石形"), ("diamond", "rhombus"), "diamonds"),
    Kind("cross", "shape", ("十字形", "十字"), ("cross", "plus sign"), "crosses"),
    Kind("house", "thing", ("房子", "房屋"), ("house", "home"), "houses", "座"),
    Kind("tree", "thing", ("树", "大树"), ("tree",), "trees", "棵"),
    Kind("sun", "thing", ("太阳",), ("sun",), "suns"),
    Kind("moon", "thing", ("月亮",), ("moon", "crescent"), "moons"),
    Kind("car", "thing", ("汽车", "车", "小汽车"), ("car",), "cars", "辆"),
    Kind("boat", "thing", ("船", "小船"), ("boat", "ship"), "boats", "艘"),
    Kind("fish", "thing", ("鱼", "小鱼"), ("fish",), "fish", "条"),
    Kind("flower", "thing", ("花", "花朵"), ("flower",), "flowers", "朵"),
    Kind("cup", "thing", ("杯子", "水杯"), ("cup", "mug"), "cups"),
    Kind("umbrella", "thing", ("雨伞", "伞"), ("umbrella",), "umbrellas", "把"),
    Kind("mushroom", "thing", ("蘑菇",), ("mushroom",), "mushrooms"),
    Kind("balloon", "thing", ("气球",), ("balloon",), "balloons"),
)

COLOURS: tuple[Colour, ...] = (
    Colour("red", "红色", ((255, 0, 0), (220, 20, 40), (200, 20, 20), (235, 50, 45))),
    Colour("orange", "橙色", ((255, 140, 0), (255, 165, 0), (245, 130, 32), (250, 120, 10))),
    Colour("yellow", "黄色", ((255, 255, 0), (255, 225, 0), (250, 220, 50), (245, 235, 60))),
    Colour("green", "绿色", ((0, 128, 0), (0, 200, 0), (0, 255, 0), (50, 160, 70), (34, 139, 34))),
    Colour("blue", "蓝色", ((0, 0, 255), (30, 90, 220), (30, 144, 255), (20, 60, 160), (65, 105, 225))),
    Colour("purple", "紫色", ((128, 0, 128), (140, 50, 190), (110, 30, 150), (160, 32, 240))),
    Colour("pink", "粉色", ((255, 192, 203), (255, 105, 180), (250, 150, 190), (255, 160, 200))),
    Colour("brown", "棕色", ((139, 69, 19), (120, 70, 30), (165, 42, 42), (110, 60, 30), (150, 90, 45))),
    Colour("black", "黑色", ((0, 0, 0), (25, 25, 25), (35, 35, 40))),
    Colour("white", "白色", ((255, 255, 255), (248, 248, 248), (250, 250, 245))),
)

BACKGROUNDS: tuple[Background, ...] = (
    Background("white", "白色", ((255, 255, 255), (255, 255, 255), (250, 250, 250), (248, 246, 240))),
    Background("black", "黑色", ((0, 0, 0), (15, 15, 15), (28, 28, 30))),
    Background("grey", "灰色", ((128, 128, 128), (190, 190, 190), (160, 162, 165), (211, 211, 211))),
    Background("blue", "蓝色", ((173, 216, 230), (135, 206, 235), (190, 215, 245), (60, 110, 210))),
    Background("green", "绿色", ((144, 238, 144), (190, 230, 190), (90, 170, 100))),
    Background("yellow", "黄色", ((255, 250, 190), (255, 240, 150), (250, 225, 100))),
    Background("pink", "粉色", ((255, 220, 228), (255, 200, 215), (250, 185, 205))),
    Background("grass", "草地", ((70, 150, 60), (100, 175, 75), (85, 140, 50)), "grass"),
    Background("sea", "大海", ((40, 110, 180), (30, 130, 190), (55, 140, 170)), "sea"),
    Background("night sky", "夜空", ((12, 16, 50), (20, 22, 66), (8, 10, 36)), "night"),
    Background("sand", "沙滩", ((225, 200, 145), (235, 210, 160), (215, 185, 125)), "sand"),
)

ZONES: tuple[Zone, ...] = (
    Zone(0, 0, "左上方", "in the top left"),
    Zone(1, 0, "上方", "at the top"),
    Zone(2, 0, "右上方", "in the top right"),
    Zone(0, 1, "左边", "on the left"),
    Zone(1, 1, "中间", "in the middle"),
    Zone(2, 1, "右边", "on the right"),
    Zone(0, 2, "左下方", "in the bottom left"),
    Zone(1, 2, "下方", "at the bottom"),
    Zone(2, 2, "右下方", "in the bottom right"),
)
