"""Quotes figures in README and docs from files in the repository, between `<!-- name -->` marks.

`python benchmarks/quote.py` rewrites the pages; `--check` only compares, and exits 1 where a page says something else.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from quote_words import WORDS

from visualglm.hardware.memory import in_words

ROOT = Path(__file__).parents[1]
PAGES = [("en", ROOT / "README.md"), ("zh", ROOT / "README_zh.md")]
PAGES += [(language, page) for language in ("en", "zh") for page in sorted((ROOT / "docs" / language).glob("*.md"))]


def full_size(language: str, name: str = "full_size") -> str:
    """The table of `make full-size`, or of `make full-size-4bit`."""
    words, result = WORDS[language], stored(name)
    rows = table([("", ""), ("---",) * 2, *full_size_rows(words, language, result)])
    facts = facts_of(result)
    return f"{rows}\n\n{words['from'].format(**facts)}"


def full_size_rows(words: dict[str, str], language: str, result: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each line."""
    peak, ratio, size = result["peak_anonymous_gb"], result["peak_over_model"], result["model_gb"]
    seconds = words["seconds"].format
    return [
        (words["load"], seconds(result["load_seconds"])),
        (words["memory"], words["of"].format(*((peak, ratio, size) if language == "en" else (peak, size, ratio)))),
        (words["picture"], seconds(result["picture_seconds"])),
        (words["prompt"].format(result["prompt_tokens"]), seconds(result["prompt_seconds"])),
        (words["token"], seconds(result["seconds_per_token"])),
    ]


def demo(language: str) -> str:
    """What `make demo` says in the page's language; the same on every machine, since the packed model is greedy."""
    sample = json.loads((ROOT / "benchmarks/results/demo.json").read_text("utf-8"))
    lines = [line for turn in sample["turns"] for line in (f"> {turn['question']}", turn["answer"])]
    picture = Path(sample["picture"])
    return f"![{picture.stem}]({picture.as_posix()})\n\n```text\n" + "\n".join(lines) + "\n```"


def captioning(language: str) -> str:
    """What `make bench-caption` measured."""
    result = json.loads((ROOT / "benchmarks/results/captioning.json").read_text("utf-8"))
    facts = facts_of(result)
    facts |= {"one": result["images_per_second_at_batch_1"], "eight": result["images_per_second_at_batch_8"]}
    return WORDS[language]["captioning"].format(**facts)


def batching(language: str) -> str:
    """What `make bench-batching` measured."""
    result = json.loads((ROOT / "benchmarks/results/batching.json").read_text("utf-8"))
    dtype = result["dtype"].removeprefix("torch.")
    return WORDS[language]["batching"].format(**{**facts_of(result), "dtype": dtype})


def serving(language: str) -> str:
    """What `make bench-serve` measured under load.

    Raises:
        ValueError: there were other statuses than 200 and 503, of which the sentence would say nothing.
    """
    result = json.loads((ROOT / "benchmarks/results/serving.json").read_text("utf-8"))
    load = result["load"]
    statuses = load["answers_by_status"]
    if set(statuses) - {"200", "503"}:
        raise ValueError(f"the load test got {statuses}: say so in the docs")
    facts = {**facts_of(result), **load, "unlike": load["answers_unlike_alone"]}
    facts |= {"answered": statuses["200"], "refused": statuses.get("503", 0)}
    for name, key in (("first", "first_token_seconds"), ("total", "total_seconds")):
        facts |= {f"{name}_{share}": round(load[key][share], 1) for share in ("p50", "p95")}
    return WORDS[language]["serving"].format(**facts)


def finetune_demo(language: str) -> str:
    """What the recipes of the background example reached."""
    words, result = WORDS[language], stored("finetune_demo")
    if not result:
        return words["later"].format("make finetune-demo")
    rows = [words["demo_row"].format(method=method, **found) for method, found in result["methods"].items()]
    return "\n".join([words["demo_head"], "| --- | --- | --- | --- | --- |", *rows])


def finetune_memory(language: str) -> str:
    """Peak memory of fine-tuning, foretold and measured."""
    words, result = WORDS[language], stored("finetuning")
    rows = [
        f"| {words[f'memory_{kind}'].format(**result[kind])} | `{method}` | {in_words(found['foretold_bytes'])} | "
        f"{in_words(found['peak_bytes'])} | {in_words(found['of_it_mapped_bytes'])} |"
        for kind in ("packed", "wide")
        if kind in result
        for method, found in result[kind]["methods"].items()
    ]
    if not rows:
        return words["later"].format("make bench-finetune")
    return "\n".join([words["memory_head"], "| --- | --- | --- | --- | --- |", *rows])


def finetune_cache(language: str) -> str:
    """What cached features save."""
    words, result = WORDS[language], stored("finetuning").get("cache")
    if not result:
        return words["later"].format("make bench-finetune")
    return words["cache"].format(**facts_of(result))


def stored(name: str) -> dict[str, Any]:
    """A file of results, empty where it was not measured yet."""
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def ray_captioning(language: str) -> str:
    """What `make bench-ray` measured."""
    result = stored("ray_captioning")
    if not result:
        return WORDS[language]["later"].format("make bench-ray")
    facts = facts_of(result)
    facts |= {"start": result["ray_start_seconds"], "local": result["local"]["images_per_second"]}
    for name, actors in (("one", "ray_1"), ("two", "ray_2")):
        facts[name] = result[actors]["images_per_second"]
        facts[f"first_{name}"] = result[actors]["first_part_seconds"]
    return WORDS[language]["ray_captioning"].format(**facts)


PICTURES_TO_SCALE, TOKENS_TO_SCALE = 1_000_000, 40


def scale(language: str) -> str:
    """What `make full-size` and `make bench-caption` measured, multiplied and divided."""
    words = WORDS[language]
    full, mini = stored("full_size"), stored("captioning")
    picture, prompt, token = full["picture_seconds"], full["prompt_seconds"], full["seconds_per_token"]
    rate = mini["images_per_second_at_batch_8"]
    rows = []
    for name, each, facts in (
        (
            "scale_full",
            round(picture + prompt + TOKENS_TO_SCALE * token, 1),
            {"tokens": TOKENS_TO_SCALE, "picture": picture, "prompt": prompt, "token": token},
        ),
        ("scale_mini", round(1 / rate, 4), {"model": mini["model"], "rate": rate}),
    ):
        hours = PICTURES_TO_SCALE * each / 3600
        shares = {"hours": round(hours, 1), "eight": round(hours / 8, 1), "many": round(hours / 64, 1)}
        line = f"| {words[name]} | {words['scale_hours']} |"
        rows.append(line.format(count=PICTURES_TO_SCALE, each=each, **facts, **shares))
    head = words["scale_head"].format(count=PICTURES_TO_SCALE)
    lines = "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])
    return f"{words['scale'].format(count=PICTURES_TO_SCALE)}\n\n{lines}"


def vllm(language: str) -> str:
    """What `make bench-vllm` measured."""
    words, result = WORDS[language], stored("vllm_throughput")
    if not result:
        return words["later"].format("make bench-vllm")
    facts = facts_of(result)
    ours, theirs = (result["engines"][name]["clients"] for name in ("transformers", "vllm"))
    cell = "{requests_per_second} ({tokens_per_second})"
    rows = [[name.format(**facts) for name in words["vllm_rows"]], ["---"] * 3]
    rows += [[clients, cell.format(**ours[clients]), cell.format(**theirs[clients])] for clients in ours]
    return f"{words['vllm'].format(**facts)}\n\n{table(rows)}\n\n{words['vllm_end'].format(**facts)}"


def quantization(language: str) -> str:
    """The table of `make bench-quantization`."""
    words, result = (
        WORDS[language],
        json.loads((ROOT / "benchmarks/results/quantization_quality.json").read_text("utf-8")),
    )
    rows = [words["quantization"], ("---",) * 6]
    for form, found in result["forms"].items():
        shares = (f"{100 * found[name]:.1f} %" for name in ("unchanged", "right"))
        apart = f"{100 * found['logit_distance']:.1f} %"
        name, size = words["forms"].get(form, form), f"{found['weights_mb']:.1f} MB"
        rows.append((name, size, *shares, f"{found['perplexity']:.3f}", apart))
    asked = next(iter(result["forms"].values()))["questions"]
    return f"{table(rows)}\n\n{words['asked'].format(questions=asked, model=result['model'], date=result['date'][:10])}"


def linear(language: str) -> str:
    """The table of `make bench-linear`."""
    words, result = WORDS[language], json.loads((ROOT / "benchmarks/results/linear.json").read_text("utf-8"))
    rows = [words["linear"], ("---",) * 5]
    for found in result["kernels"]:
        one, eight, many = (found["rows"][count] for count in ("1", "8", "64"))
        speeds = (f"{row['gop_per_second']:.0f}" for row in (eight, many))
        rows.append(
            (words["kernels"][found["name"]], f"{one['milliseconds']:.2f}", f"{one['of_bandwidth']:.2f}", *speeds)
        )
    return f"{table(rows)}\n\n{words['linear_from'].format(**facts_of(result))}"


def bench_6b(language: str) -> str:
    """What `make bench-6b` measured on random weights of the full size."""
    words, found = WORDS[language], [report for bits in (4, 8) if (report := stored(f"bench_6b_{bits}"))]
    if not found:
        return words["later"].format("make bench-6b")
    rows = [tuple(head.format(found[0]["prompt_tokens"]) for head in words["bench_6b"]), ("---",) * 7]
    for report in found:
        one, eight = report["decode"]
        form, peak = words["bench_6b_form"].format(report["bits"]), f"{report['peak_anonymous_gb']} GB"
        seconds = [words["seconds"].format(round(report[f"{part}_seconds"], 2)) for part in ("picture", "prompt")]
        speeds = [words["bench_6b_speed"].format(round(row["tokens_per_second"], 2)) for row in (one, eight)]
        rows.append((form, peak, *seconds, speeds[0], f"{one['of_bandwidth']:.2f}", speeds[1]))
    last = found[-1]
    facts = {**facts_of(last), "bandwidth": last["decode"][0]["bandwidth_gb_per_second"]}
    return f"{table(rows)}\n\n{words['bench_6b_from'].format(**facts)}"


FORMS = ("bfloat16", "int8", "int4")


def peers(language: str) -> str:
    """What `make bench-peers` measured beside chatglm.cpp."""
    words, result = WORDS[language], stored("peers_chatglm_cpp")
    if not result:
        return words["later"].format("make bench-peers")
    rows = [words["peers"], ("---",) * 5]
    for bits in (4, 8):
        found = result[f"int{bits}"]
        shares = " / ".join(f"{found['of_bandwidth'][side]:.2f}" for side in ("chatglm_cpp", "ours"))
        names = {"token": words["peers_form"], "prompt": words["peers_prompt"]}
        for request, name in names.items():
            cells = [words["seconds"].format(round(found["seconds"][request][s], 3)) for s in ("chatglm_cpp", "ours")]
            ratio = f"{found['times_as_fast'][request]:.2f}"
            share = shares if request == "token" else ""
            rows.append((name.format(bits, result["prompt_tokens"]), *cells, ratio, share))
    return f"{table(rows)}\n\n{words['peers_from'].format(**paired_facts(result))}"


def upstream(language: str) -> str:
    """What `make bench-upstream` measured beside upstream's own code."""
    words, result = WORDS[language], stored("peers_upstream")
    if not result:
        return words["later"].format("make bench-upstream")
    rows = [tuple(head.format(result["prompt_tokens"]) for head in words["upstream"]), ("---",) * 4]
    for form, name in words["upstream_form"].items():
        found = result[form]
        cells = []
        for request in ("picture", "prompt", "token"):
            seconds = (round(found["seconds"][request][side], 3) for side in ("ours", "upstream"))
            cells.append(words["upstream_cell"].format(*seconds, f"{found['times_as_fast'][request]:.2f}"))
        rows.append((name, *cells))
    return f"{table(rows)}\n\n{words['upstream_from'].format(**paired_facts(result))}"


def paired_facts(result: dict[str, Any]) -> dict[str, Any]:
    """Where a paired run was made, and between what memory's bandwidth was during it."""
    found = sorted(form["bandwidth_gb_per_second"] for name, form in result.items() if name in FORMS)
    bandwidth = f"{found[0]} - {found[-1]}"
    return {**facts_of(result), "bandwidth": bandwidth}


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    """All that a record says, with its machine, versions and day at hand by their own names."""
    return {**result["machine"], **result.get("versions", {}), **result, "date": result["date"][:10]}


def table(rows: list[Any]) -> str:
    """Markdown of rows of cells, the head and its rule first."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


QUOTES = {
    "bench_6b": bench_6b,
    "peers": peers,
    "upstream": upstream,
    "linear": linear,
    "full_size": full_size,
    "full_size_4bit": partial(full_size, name="full_size_4bit"),
    "demo": demo,
    "captioning": captioning,
    "batching": batching,
    "serving": serving,
    "quantization": quantization,
    "finetune_demo": finetune_demo,
    "finetune_memory": finetune_memory,
    "finetune_cache": finetune_cache,
    "ray_captioning": ray_captioning,
    "scale": scale,
    "vllm": vllm,
}


def quoted(page: str, language: str) -> str:
    """The page with every mark's content made anew."""
    for name, make in QUOTES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in page:
            before, rest = page.split(begin, 1)
            page = f"{before}{begin}{make(language)}\n{end}{rest.split(end, 1)[1]}"
    return page


def main() -> int:
    """Rewrites or checks the pages."""
    stale = []
    for language, path in PAGES:
        page = path.read_text("utf-8")
        if (new := quoted(page, language)) != page:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(new, "utf-8")
    print(f"{'stale' if '--check' in sys.argv else 'rewritten'}: {stale}" if stale else "every figure is as quoted")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
