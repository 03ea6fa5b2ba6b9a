"""Train on scenes: `python -m visualglm_lab.training RECIPE`.

Stages run one after another; under torchrun, on several processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from visualglm.errors import UsageError, VisualGLMError

from .config import SceneTrainingConfig, read_scene_config


def main(arguments: Sequence[str]) -> int:
    """Train, or with `--check` print the plan; a user's mistake is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.training", description=__doc__)
    parser.add_argument("recipe", help="TOML file: sizes, data and stages; see lab/recipes/")
    parser.add_argument("--set", action="append", default=[], help="change a setting, e.g. 'seed=3'; repeatable")
    parser.add_argument("--stages", metavar="NAME,NAME", help="run these stages alone, in the recipe's order")
    parser.add_argument("--check", action="store_true", help="check the recipe, print its stages, and stop")
    options = parser.parse_args(arguments)
    try:
        plan = read_scene_config(options.recipe, tuple(options.set))
        if options.stages is not None:
            plan = with_stages(plan, options.stages.split(","))
        if options.check:
            print("\n".join(plan.summary()))
        else:
            from .trainer import SceneTrainer

            SceneTrainer(plan).run()
    except VisualGLMError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def with_stages(plan: SceneTrainingConfig, names: Sequence[str]) -> SceneTrainingConfig:
    """Return the plan with only the stages of these names.

    Raises:
        UsageError: the recipe has no stage of a name.
    """
    known = [stage.name for stage in plan.stages]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"The recipe has no stage {unknown!r}. Choose from {', '.join(known)}.")
    return replace(plan, stages=tuple(stage for stage in plan.stages if stage.name in names))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
