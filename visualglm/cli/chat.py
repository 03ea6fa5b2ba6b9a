"""A dialogue in the terminal; what it says itself is in the language of the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError, VisualGLMError, visible
from . import options

if TYPE_CHECKING:
    from rich.console import Console

    from ..conversation import Conversation

MESSAGES: dict[str, dict[str, str]] = {
    "zh": {
        "greeting": "欢迎使用 VisualGLM。输入问题即可；/image 路径 加一张图片，"
        "clear 重新开始，/save 文件 保存，stop 退出。",
        "picture": "图片：{}",
        "none": "还没有图片：/image 路径 可以给一张。",
        "cleared": "对话与图片都已清空；/image 路径 可以给一张新图片。",
        "saved": "已保存到 {}",
        "stopped": "（已停止）",
        "dropped": "（对话太长，最早的 {} 轮没有进入提示）",
        "mini": "这是内置的小模型 visualglm-mini，只认识画出来的简单图形；照片请用 --model 打开 VisualGLM-6B。",
        "usage": "请写明路径，例如：{} 文件",
    },
    "en": {
        "greeting": "Welcome to VisualGLM. Type a question; /image PATH adds a picture, clear starts anew, "
        "/save FILE keeps the dialogue, stop leaves.",
        "picture": "picture: {}",
        "none": "No picture yet: /image PATH shows one.",
        "cleared": "Dialogue and pictures forgotten; /image PATH shows a new one.",
        "saved": "saved to {}",
        "stopped": "(stopped)",
        "dropped": "(too long: the {} oldest turns stay out of the prompt)",
        "mini": "This is the packed visualglm-mini, which knows simple drawn pictures only; for photographs open "
        "VisualGLM-6B with --model.",
        "usage": "name a path, as in: {} FILE",
    },
}


@options.with_flags
def chat(
    flags: options.Flags,
    image: Annotated[str | None, typer.Argument(help="A picture to begin with.")] = None,
    question: Annotated[str | None, typer.Option(help="Asked at once about every picture that is shown.")] = None,
) -> None:
    """A dialogue in the terminal. / 在终端里对话。"""
    from rich.console import Console

    from ..preprocessing.images import open_image

    sampling = flags.sampling()
    # before a model is loaded for it: a wrong path should not cost half a minute
    picture = open_image(image, upstream=flags.upstream_images) if image is not None else None
    conversation = flags.open_model().conversation(picture, flags.language)
    dialogue = Dialogue(conversation, Console(highlight=False, emoji=False), sampling, question)
    dialogue.say("greeting")
    if flags.model is None:
        dialogue.say("mini")
    dialogue.say("picture" if image else "none", image)
    if image:
        dialogue.ask_about_picture()
    dialogue.run()


class Dialogue:
    """Reads lines until `stop` or the end of input, and streams answers."""

    def __init__(
        self, conversation: Conversation, console: Console, sampling: dict[str, Any], question: str | None = None
    ) -> None:
        self.conversation = conversation
        self.console = console
        self.sampling = sampling
        self.question = question
        self.spoken: Literal["zh", "en"] = options.spoken_language(conversation.language)

    def say(self, message: str, *values: object) -> None:
        """One of the program's own messages."""
        shown = (visible(str(value)) for value in values)
        self.console.print(MESSAGES[self.spoken][message].format(*shown), style="dim", markup=False)

    def run(self) -> None:
        """The loop. Ctrl-C while waiting, and the end of input, leave."""
        while True:
            try:
                line = self.console.input("[bold cyan]> [/]").strip()
            except (EOFError, KeyboardInterrupt, RuntimeError):  # RuntimeError: started without a stdin
                self.console.print()
                return
            if line == "stop":
                return
            if line:
                self.take(line)

    def take(self, line: str) -> None:
        """One line: a command or a question. A mistake is said, and the dialogue goes on."""
        verb, _, rest = line.partition(" ")
        try:
            if line == "clear":
                self.conversation.clear()
                self.say("cleared")
            elif verb == "/image":
                self.conversation.show(self._path(verb, rest))
                self.say("picture", rest.strip())
                self.ask_about_picture()
            elif verb == "/save":
                self.save(self._path(verb, rest))
            else:
                self.answer(line)
        except VisualGLMError as error:
            self.console.print(str(error), style="red", markup=False)

    def _path(self, verb: str, rest: str) -> Path:
        name = rest.strip().strip("'\"")  # terminals quote a file that is dropped on them
        if not name:
            raise UsageError(MESSAGES[self.spoken]["usage"].format(verb))
        try:
            return Path(name).expanduser()
        except RuntimeError as error:
            raise UsageError(f"{name}: {error}") from error

    def ask_about_picture(self) -> None:
        """The question that was given for every new picture, if one was."""
        if self.question is not None:
            self.console.print(f"> {self.question}", markup=False)
            self.answer(self.question)

    def answer(self, question: str) -> None:
        """Streams the answer; Ctrl-C stops it, not the program."""
        from ..preprocessing.prompt import language_of

        if self.conversation.language == "auto":
            self.spoken = language_of(question)
        pieces = self.conversation.stream(question, **self.sampling)
        try:
            for piece in pieces:
                self.console.print(visible(piece, kept="\n\t"), end="", markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            pieces.close()  # type: ignore[attr-defined]
            self.say("stopped")
        self.console.print()
        if self.conversation.answer is not None and self.conversation.answer.dropped_turns:
            self.say("dropped", self.conversation.answer.dropped_turns)

    def save(self, path: Path) -> None:
        """Writes the turns as JSON."""
        from ..files.atomic import write_file

        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link: choose another place, or name the file itself.")
        turns = [{"question": question, "answer": answer} for question, answer in self.conversation.history]
        write_file(path, json.dumps(turns, ensure_ascii=False, indent=1) + "\n")
        self.say("saved", path)
