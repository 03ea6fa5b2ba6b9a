"""The command line, one file per verb.

`main` prints a `VisualGLMError` as one line on stderr and exits with 2; any other error keeps its traceback. Each verb
imports what it needs when it runs, so that `--help` loads neither torch nor transformers.
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
from .download import download
from .evaluate import evaluate
from .explain import explain
from .finetune import finetune
from .fit import fit
from .grouped_help import GroupedCommand
from .legacy_flags import AcceptsUpstreamFlags
from .merge import merge
from .pretrain import pretrain
from .quantize import quantize
from .serve import serve
from .web import web

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT), "Free some space or change permissions"),
    errno.ENAMETOOLONG: "Give a shorter path",
}
"""The remedy for each operating-system error that no verb explains."""

OUT_OF_MEMORY = "OutOfMemoryError"
"""torch's exception for a full GPU, by name: torch is not imported here."""

app = typer.Typer(
    name="visualglm",
    help="Chat about images in Chinese and English.  用中文和英文与图片对话。",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VERBS = (
    ask,
    bench,
    chat,
    caption,
    convert,
    doctor,
    download,
    evaluate,
    explain,
    finetune,
    fit,
    merge,
    pretrain,
    quantize,
    serve,
    web,
)
for verb in VERBS:
    replaces_upstream_script = verb in (chat, web)
    app.command(cls=AcceptsUpstreamFlags if replaces_upstream_script else GroupedCommand)(verb)


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the `visualglm` program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # answers may be Chinese, whatever encoding the terminal is set to
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except VisualGLMError as error:
        print(f"visualglm: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output closed the pipe, as `head` does: no message is needed
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != OUT_OF_MEMORY:
            raise
        print(
            "visualglm: Out of memory. Add --quantize 8 or 4, or a smaller batch; `visualglm fit` estimates the need.",
            file=sys.stderr,
        )
        sys.exit(2)
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        path = str(error.filename or "standard output")[:200]
        print(visible(f"visualglm: {error.strerror}: {path}. {ADVICE[error.errno]}."), file=sys.stderr)
        sys.exit(2)
