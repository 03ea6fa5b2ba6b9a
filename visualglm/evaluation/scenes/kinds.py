"""Kinds, colours, backgrounds, zones and categories, with their names.

There are twenty drawn kinds (eight shapes, twelve objects). Names are in Chinese and English. The first name of a kind
is used in answers, the others only in questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Kind:
    """A kind of object; `measure` is its Chinese measure word, `plural` its English plural."""

    key: str
    category: str
    zh: tuple[str, ...]
    en: tuple[str, ...]
    plural: str
    measure: str = "个"


@dataclass(frozen=True)
class Colour:
    """A colour's names, and the tones in which it is drawn (including pure and CSS tones)."""

    key: str
    zh: str
    tones: tuple[RGB, ...]


@dataclass(frozen=True)
class Background:
    """A background: one tone (`texture` None), a drawn place, a pattern or a photograph."""

    key: str
    zh: str
    tones: tuple[RGB, ...]
    texture: Literal["grass", "sea", "night", "sand", "pattern", "photo"] | None = None


@dataclass(frozen=True)
class Zone:
    """One of nine parts of an image: `zh` as in 在左上方, `en` as in 'in the top left'."""

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
    Kind("house", "building", ("房子", "房屋"), ("house", "home"), "houses", "座"),
    Kind("tree", "plant", ("树", "大树"), ("tree",), "trees", "棵"),
    Kind("sun", "nature", ("太阳",), ("sun",), "suns"),
    Kind("moon", "nature", ("月亮",), ("moon", "crescent"), "moons"),
    Kind("car", "vehicle", ("汽车", "车", "小汽车"), ("car",), "cars", "辆"),
    Kind("boat", "vehicle", ("船", "小船"), ("boat", "ship"), "boats", "艘"),
    Kind("fish", "animal", ("鱼", "小鱼"), ("fish",), "fish", "条"),
    Kind("flower", "plant", ("花", "花朵"), ("flower",), "flowers", "朵"),
    Kind("cup", "household", ("杯子", "水杯"), ("cup", "mug"), "cups"),
    Kind("umbrella", "household", ("雨伞", "伞"), ("umbrella",), "umbrellas", "把"),
    Kind("mushroom", "vegetable", ("蘑菇",), ("mushroom",), "mushrooms"),
    Kind("balloon", "toy", ("气球",), ("balloon",), "balloons"),
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
    Background("pattern", "花纹", ((230, 210, 200), (200, 215, 230), (120, 140, 120), (90, 80, 110)), "pattern"),
    Background("photograph", "照片", ((128, 128, 128),), "photo"),
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

AKIN: dict[str, tuple[str, ...]] = {
    "food": ("fruit", "vegetable", "drink"),
    "plant": ("fruit", "vegetable", "food"),
    "nature": ("plant", "animal", "fruit", "vegetable"),
    "person": ("face", "body", "fantasy"),
    "toy": ("sport", "animal"),
    "symbol": ("shape", "letter"),
    "place": ("building", "nature"),
    "household": ("tool", "furniture", "stationery", "electronics", "clothing"),
    "tool": ("household", "stationery", "electronics"),
}
"""Categories whose objects may also be counted to another one; questions never contrast these."""

CATEGORIES: dict[str, dict[Language, str]] = {
    "animal": {"zh": "动物", "en": "animal"},
    "plant": {"zh": "植物", "en": "plant"},
    "fruit": {"zh": "水果", "en": "fruit"},
    "vegetable": {"zh": "蔬菜", "en": "vegetable"},
    "food": {"zh": "食物", "en": "food item"},
    "drink": {"zh": "饮料", "en": "drink"},
    "vehicle": {"zh": "交通工具", "en": "vehicle"},
    "person": {"zh": "人物", "en": "person"},
    "face": {"zh": "表情", "en": "facial expression"},
    "body": {"zh": "身体部位", "en": "body part"},
    "clothing": {"zh": "衣物", "en": "piece of clothing"},
    "building": {"zh": "建筑", "en": "building"},
    "place": {"zh": "场景", "en": "place"},
    "furniture": {"zh": "家具", "en": "piece of furniture"},
    "household": {"zh": "生活用品", "en": "household item"},
    "tool": {"zh": "工具", "en": "tool"},
    "instrument": {"zh": "乐器", "en": "musical instrument"},
    "sport": {"zh": "运动用品", "en": "sports item"},
    "toy": {"zh": "玩具", "en": "toy"},
    "electronics": {"zh": "电子产品", "en": "electronic device"},
    "stationery": {"zh": "文具", "en": "piece of stationery"},
    "nature": {"zh": "自然事物", "en": "natural object"},
    "symbol": {"zh": "符号", "en": "symbol"},
    "shape": {"zh": "图形", "en": "shape"},
    "fantasy": {"zh": "幻想角色", "en": "fantasy figure"},
    "street": {"zh": "街道设施", "en": "street object"},
    "letter": {"zh": "字符", "en": "character"},
}
