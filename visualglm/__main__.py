"""`python -m visualglm` is the `visualglm` program."""

from .cli import main

main()
