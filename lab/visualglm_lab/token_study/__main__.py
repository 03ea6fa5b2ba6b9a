"""Run the study: `python -m visualglm_lab.token_study RECIPE`. After a kill, run it again: it goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from visualglm.errors import VisualGLMError

from .config import StudyConfig, read_study_config


def main(arguments: Sequence[str]) -> int:
    """Run the study, or with `--check` estimate it; a user's mistake is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m visualglm_lab.token_study", description=__doc__)
    parser.add_argument("recipe", help="TOML file: conditions, seeds, sizes and steps; see lab/recipes/study/")
    parser.add_argument("--set", action="append", default=[], help="change a setting, e.g. 'seeds=[0]'; repeatable")
    parser.add_argument("--check", action="store_true", help="list the jobs; time a few steps of each, and stop")
    options = parser.parse_args(arguments)
    try:
        plan = read_study_config(options.recipe, tuple(options.set))
        if options.check:
            _check(plan)
        else:
            from .study import run_study

            run_study(plan)
            print(f"{plan.results} is written.")
    except VisualGLMError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _check(plan: StudyConfig) -> None:
    from .study import estimate

    found = estimate(plan)
    for job, seconds in found.items():
        print(f"{job.name}: {getattr(plan, job.stage).steps} steps, {seconds / 60:.1f} minutes of one core")
    print(f"in all {sum(found.values()) / 60:.0f} minutes of one core, {plan.processes} processes")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
