#!/bin/sh
# One part of stem_gpu.toml: sh lab/recipes/mini/stem_gpu.sh PART FROM TO
# PART is names, dialogue, answers or finish; FROM is the folder of the model so far, TO that of the next (float16, 33 MB).
# A part ends within nine minutes. Between parts only TO is needed, and runs/pictures.avif with runs/stem (see README.md).
set -eu
case "$1" in
  names) stages=heads,stem,names ;;
  dialogue) stages=heads,alignment,dialogue ;;
  answers) stages=answers ;;
  finish) stages=heads,finish ;;
  *) echo "There is no part $1. Choose names, dialogue, answers or finish." >&2; exit 2 ;;
esac
python=${PYTHON:-.venv/bin/python}
test -d runs/pictures || $python -m visualglm_lab.album_builder.compact expand runs/pictures.avif runs/pictures
rm -rf runs/mini-stem-gpu
$python -m visualglm_lab.training lab/recipes/mini/stem_gpu.toml --stages "$stages" --set "start.model=\"$2\""
mkdir -p "$3"
cp "$2/ice_text.model" "$3"
$python -m visualglm_lab.training.export runs/mini-stem-gpu/model "$3"
cp runs/mini-stem-gpu/log.jsonl "$3"
