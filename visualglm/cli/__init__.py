"""The command line, one file per verb; nobody imports this room.

`main` turns a user's mistake into one line on stderr and exit code 2; any other error keeps its traceback. Building the
command line loads neither torch nor transformers, so `--help` is quick: each verb imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import VisualGLMError, visible
from .ask import ask
from .bench import bench
from .caption import caption
from .chat import chat
from .convert import convert
from .doctor import doctor
from .finetune import finetune
from .fit import fit
from .legacy_flags import AcceptsUpstreamFlags
from .merge import merge
from .pretrain import pretrain
from .quantize import quantize
from .serve import serve
from .web import web

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT), "make room or allow it"),
    errno.ENAMETOOLONG: "give a shorter path",
}
"""What to do about an error of the system that no verb explains."""

app = typer.Typer(
    name="visualglm",
    help="Talk with a picture in Chinese and English.  用中文和英文与图片对话。",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (ask, bench, chat, caption, convert, doctor, finetune, fit, merge, pretrain, quantize, serve, web):
    app.command(cls=AcceptsUpstreamFlags)(verb)


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """The `visualglm` program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # answers are Chinese, whatever the terminal was set to
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except VisualGLMError as error:
        print(f"visualglm: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `head` does: nothing to complain about
        sys.exit(1)
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        file = str(error.filename or "standard output")[:200]
        print(visible(f"visualglm: {error.strerror}: {file}; {ADVICE[error.errno]}."), file=sys.stderr)
        sys.exit(2)
