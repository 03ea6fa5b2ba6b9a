"""Packages -> an album of labelled pictures (album.npy, manifest.jsonl, summary.json).

`python -m visualglm_lab.album_builder lab/recipes/mini/pictures.toml` fetches the packages that the recipe names, draws
their pictures at one size, groups near-duplicates, splits, and writes. Needs the extra `data`.
"""
