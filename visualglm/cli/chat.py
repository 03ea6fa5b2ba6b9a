"""`visualglm chat`: chat about images in the terminal.

The program's own messages follow the language of the last question.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError, VisualGLMError, visible
from . import options
from .grouped_help import data_option
from .model_name import NOTICE, is_packed

if TYPE_CHECKING:
    from rich.console import Console

    from ..conversation import Conversation

MESSAGES: dict[str, dict[str, str]] = {
    "zh": {
        "greeting": "欢迎使用 VisualGLM。输入问题即可；/image 路径 加一张图片，"
        "clear 重新开始，/save 文件 保存，stop 退出。",
        "image": "图片：{}",
        "none": "还没有图片：/image 路径 可以给一张。",
        "cleared": "对话与图片都已清空；/image 路径 可以给一张新图片。",
        "saved": "已保存到 {}",
        "stopped": "（已停止）",
        "dropped": "（对话太长，最早的 {} 轮没有进入提示）",
        "mini": NOTICE["zh"],
        "usage": "缺少路径。例如：{} 文件",
    },
    "en": {
        "greeting": "Welcome to VisualGLM. Type a question; /image PATH adds an image, clear starts a new chat, "
        "/save FILE saves the chat, stop quits.",
        "image": "image: {}",
        "none": "No image yet: add one with /image PATH.",
        "cleared": "Chat and images cleared; add a new image with /image PATH.",
        "saved": "saved to {}",
        "stopped": "(stopped)",
        "dropped": "(the chat is too long: its {} oldest turns were left out of the prompt)",
        "mini": NOTICE["en"],
        "usage": "A path is missing. Write for example: {} FILE",
    },
}


@options.with_flags
def chat(
    flags: options.Flags,
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="Image to begin with.")] = None,
    question: Annotated[
        str | None, data_option(metavar="TEXT", help="Question to ask about every image as soon as it is shown.")
    ] = None,
) -> None:
    """Chat about images in the terminal. / 在终端里对话。

    Example: visualglm chat photo.jpg
    """
    from rich.console import Console

    from ..preprocessing.images import open_image

    sampling = flags.sampling()
    # before the model is loaded, so that a wrong path fails at once
    opened = open_image(image, upstream=flags.upstream_images) if image is not None else None
    conversation = flags.open_model().conversation(opened, flags.language)
    dialogue = Dialogue(conversation, Console(highlight=False, emoji=False), sampling, question)
    dialogue.say("greeting")
    if is_packed(flags.model):
        dialogue.say("mini")
    dialogue.say("image" if image else "none", image)
    if image:
        dialogue.ask_about_image()
    dialogue.run()


class Dialogue:
    """Read lines until `stop` or the end of input; stream the answers."""

    def __init__(
        self, conversation: Conversation, console: Console, sampling: dict[str, Any], question: str | None = None
    ) -> None:
        self.conversation = conversation
        self.console = console
        self.sampling = sampling
        self.question = question
        self.message_language: Literal["zh", "en"] = options.interface_language(conversation.language)

    def say(self, message: str, *values: object) -> None:
        """Print one of the program's own messages."""
        shown = (visible(str(value)) for value in values)
        self.console.print(MESSAGES[self.message_language][message].format(*shown), style="dim", markup=False)

    def run(self) -> None:
        """Process lines. Ctrl-C at the prompt and the end of input quit."""
        while True:
            try:
                line = self.console.input("[bold cyan]> [/]").strip()
            except (EOFError, KeyboardInterrupt, RuntimeError):  # RuntimeError: started without a stdin
                self.console.print()
                return
            if line == "stop":
                return
            if line:
                self.process(line)

    def process(self, line: str) -> None:
        """Run one line, a command or a question. An error is printed and the chat continues."""
        verb, _, rest = line.partition(" ")
        try:
            if line == "clear":
                self.conversation.clear()
                self.say("cleared")
            elif verb == "/image":
                self.conversation.show(self._path(verb, rest))
                self.say("image", rest.strip())
                self.ask_about_image()
            elif verb == "/save":
                self.save(self._path(verb, rest))
            else:
                self.answer(line)
        except VisualGLMError as error:
            self.console.print(str(error), style="red", markup=False)

    def _path(self, verb: str, rest: str) -> Path:
        name = rest.strip().strip("'\"")  # terminals quote a file that is dropped on them
        if not name:
            raise UsageError(MESSAGES[self.message_language]["usage"].format(verb))
        try:
            return Path(name).expanduser()
        except RuntimeError as error:
            raise UsageError(f"{name}: {error}") from error

    def ask_about_image(self) -> None:
        """Ask the question of `--question`, if it was given."""
        if self.question is not None:
            self.console.print(f"> {self.question}", markup=False)
            self.answer(self.question)

    def answer(self, question: str) -> None:
        """Stream the answer. Ctrl-C stops the answer, not the program."""
        from ..preprocessing.prompt import language_of

        if self.conversation.language == "auto":
            self.message_language = language_of(question)
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
        """Write the turns as JSON."""
        from ..files.atomic import write_file

        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link. Choose another path, or name the file itself.")
        turns = [{"question": question, "answer": answer} for question, answer in self.conversation.history]
        write_file(path, json.dumps(turns, ensure_ascii=False, indent=1) + "\n")
        self.say("saved", path)
