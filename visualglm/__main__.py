"""`python -m visualglm` is the `visualglm` program."""

from .commands import main

main()
