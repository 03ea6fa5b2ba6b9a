"""`visualglm chat`: chat about images in the terminal.

The program's own messages follow the language of the last question.
"""

from __future__ import annotations

import json
import re
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
        "greeting": "欢迎使用 VisualGLM。输入问题即可；/image 路径 加一张图片，/quit 退出，/help 列出全部命令。",
        "help": "/image 路径   加一张图片\n/clear        清空对话与图片\n/save 文件    把对话保存为 JSON\n"
        "/help         显示本说明\n/quit         退出（quit、exit、stop、Ctrl-D 亦可）\n"
        "Ctrl-C        回答时停止当前回答，否则退出",
        "unknown": "没有命令 {}，/help 列出全部命令。",
        "image": "图片：{}",
        "none": "还没有图片：/image 路径 可以给一张。",
        "cleared": "对话与图片都已清空；/image 路径 可以给一张新图片。",
        "saved": "已保存到 {}",
        "stopped": "（已停止）",
        "mini": NOTICE["zh"],
        "usage": "缺少路径。例如：{} 文件",
    },
    "en": {
        "greeting": "Welcome to VisualGLM. Type a question; /image PATH adds an image, /quit leaves, /help lists the "
        "commands.",
        "help": "/image PATH   add an image\n/clear        start a new chat without images\n"
        "/save FILE    save the chat as JSON\n/help         show this list\n"
        "/quit         leave (also quit, exit, stop, Ctrl-D)\n"
        "Ctrl-C        stop the answer, or leave at the prompt",
        "unknown": "There is no command {}. /help lists the commands.",
        "image": "image: {}",
        "none": "No image yet: add one with /image PATH.",
        "cleared": "Chat and images cleared; add a new image with /image PATH.",
        "saved": "saved to {}",
        "stopped": "(stopped)",
        "mini": NOTICE["en"],
        "usage": "A path is missing. Write for example: {} FILE",
    },
}


QUIT = ("/quit", "/exit", "/stop", "quit", "exit", "stop")
"""Lines that leave; `stop` is upstream's."""
COMMAND = re.compile("/[a-zA-Z]+")
"""A first word that is meant as a command: `/save`, not the path `/home/me/a.png`."""


@options.with_flags
def chat(
    flags: options.Flags,
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="First image.")] = None,
    question: Annotated[
        str | None, data_option(metavar="TEXT", help="Question to ask about every image as soon as it is shown.")
    ] = None,
) -> None:
    """Chat about images in the terminal. / 在终端里对话。

    Example: visualglm chat photo.jpg
    """
    from rich.console import Console

    from ..preprocessing.image_bytes import read_path
    from ..preprocessing.image_decoding import decode_image

    sampling = flags.sampling()
    # before torch is imported, so that a wrong path fails at once
    opened = decode_image(read_path(image), image, flags.upstream_images) if image is not None else None
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
    """Read lines until `/quit` or the end of input; stream the answers."""

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
        self.print_note(MESSAGES[self.message_language][message].format(*shown))

    def print_note(self, text: str) -> None:
        """Print a line that is not part of an answer."""
        self.console.print(text, style="dim", markup=False)

    def run(self) -> None:
        """Process lines. Ctrl-C at the prompt and the end of input quit."""
        while True:
            try:
                line = self.console.input("[bold cyan]> [/]").strip()
            except (EOFError, KeyboardInterrupt, RuntimeError):  # RuntimeError: started without a stdin
                self.console.print()
                return
            if line in QUIT:
                return
            if line:
                self.process(line)

    def process(self, line: str) -> None:
        """Run one line, a command or a question. An error is printed and the chat continues."""
        verb, _, rest = line.partition(" ")
        try:
            if line in ("clear", "/clear"):
                self.conversation.clear()
                self.say("cleared")
            elif verb == "/image":
                self.conversation.show(self._path(verb, rest))
                self.say("image", rest.strip())
                self.ask_about_image()
            elif verb == "/save":
                self.save(self._path(verb, rest))
            elif verb == "/help":
                self.say("help")
            elif COMMAND.fullmatch(verb):
                self.say("unknown", verb)
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
        from ..preprocessing.prompt import describe_dropped_turns, language_of

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
            self.print_note(describe_dropped_turns(self.conversation.answer.dropped_turns, self.message_language))

    def save(self, path: Path) -> None:
        """Write the turns as JSON."""
        from ..files.atomic import write_file

        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link. Choose another path, or name the file itself.")
        turns = [{"question": question, "answer": answer} for question, answer in self.conversation.history]
        write_file(path, json.dumps(turns, ensure_ascii=False, indent=1) + "\n")
        self.say("saved", path)
