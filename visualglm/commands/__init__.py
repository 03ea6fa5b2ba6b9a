"""commands: the command line, one file per verb; nobody imports this room.

`main` turns a user's mistake into one line on stderr and exit code 2; any other error keeps its traceback. Building the
command line loads neither torch nor transformers, so `--help` is quick: each verb imports what it needs when it runs.
"""

from __future__ import annotations

import sys

import typer

from ..errors import VisualGLMError
from .ask import ask
from .chat import chat
from .convert import convert
from .doctor import doctor

app = typer.Typer(
    name="visualglm",
    help="Talk with a picture in Chinese and English.  用中文和英文与图片对话。",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (ask, chat, convert, doctor):
    app.command()(verb)


def main() -> None:
    """The `visualglm` program."""
    try:
        app()
    except VisualGLMError as error:
        print(f"visualglm: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `head` does: nothing to complain about
        sys.exit(1)


if __name__ == "__main__":
    main()
