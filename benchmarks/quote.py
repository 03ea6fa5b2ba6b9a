"""Keep the figures in README and docs equal to the files of results in the repository.

Tables are between `<!-- name -->` and `<!-- /name -->`, and `python benchmarks/quote.py` rewrites them. Sentences are
written by hand between `<!-- figures FILE.json -->` and `<!-- /figures -->`: each number in them must be one of that
file (rounded, or as a percentage), or it is listed. `--check` changes nothing. The exit code is 1 if a page and a file
differ.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from quote_words import WORDS

from visualglm.evaluation.report_texts import TEXTS
from visualglm.hardware.memory import in_words

ROOT = Path(__file__).parents[1]
PAGES = [("en", ROOT / "README.md"), ("zh", ROOT / "README_zh.md")]
PAGES += [(language, page) for language in ("en", "zh") for page in sorted((ROOT / "docs" / language).glob("*.md"))]


def full_size(language: str, name: str = "full_size") -> str:
    """Build the table of `make full-size`, or of `make full-size-4bit`."""
    return table([("", ""), ("---",) * 2, *full_size_rows(WORDS[language], language, stored(name))])


def full_size_rows(words: dict[str, str], language: str, result: dict[str, Any]) -> list[tuple[str, str]]:
    """Yield name and value of each line."""
    peak, ratio, size = result["peak_anonymous_gb"], result["peak_over_model"], result["model_gb"]
    seconds = words["seconds"].format
    return [
        (words["load"], seconds(result["load_seconds"])),
        (words["memory"], words["of"].format(*((peak, ratio, size) if language == "en" else (peak, size, ratio)))),
        (words["image"], seconds(result["image_seconds"])),
        (words["prompt"].format(result["prompt_tokens"]), seconds(result["prompt_seconds"])),
        (words["token"], seconds(result["seconds_per_token"])),
    ]


def demo(language: str) -> str:
    """Build the output of `make demo` in the page's language; the packed model is greedy, so it is equal everywhere."""
    shown: dict[str, list[str]] = {}
    for dialogue in stored("demo")["dialogues"]:
        for turn in dialogue["turns"]:
            shown.setdefault(dialogue["image"], []).extend((f"> {turn['question']}", turn["answer"]))
    parts = (
        f"![{Path(image).stem}]({image})\n\n```text\n" + "\n".join(lines) + "\n```" for image, lines in shown.items()
    )
    return "\n\n".join(parts)


def finetune_demo(language: str) -> str:
    """Build the results of the background example's recipes."""
    words, result = WORDS[language], stored("finetune_demo")
    rows = [words["demo_row"].format(method=method, **found) for method, found in result["methods"].items()]
    return "\n".join([words["demo_head"], "| --- | --- | --- | --- | --- |", *rows])


def finetune_memory(language: str) -> str:
    """Build the table of estimated and measured peak memory of fine-tuning."""
    words, result = WORDS[language], stored("finetuning")
    rows = [
        f"| {words[f'memory_{kind}'].format(**result[kind])} | `{method}` | {in_words(found['estimated_bytes'])} | "
        f"{in_words(found['peak_bytes'])} | {in_words(found['of_it_mapped_bytes'])} |"
        for kind in ("packed", "wide")
        if kind in result
        for method, found in result[kind]["methods"].items()
    ]
    return "\n".join([words["memory_head"], "| --- | --- | --- | --- | --- |", *rows])


def stored(name: str) -> dict[str, Any]:
    """Read a file of results."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))
    return found


IMAGES_TO_SCALE, TOKENS_TO_SCALE = 1_000_000, 40


def scale(language: str) -> str:
    """Extrapolate what `make full-size` and `make bench-caption` measured."""
    words = WORDS[language]
    full, mini = stored("full_size"), stored("captioning")
    image, prompt, token = full["image_seconds"], full["prompt_seconds"], full["seconds_per_token"]
    rate = mini["images_per_second_at_batch_8"]
    rows = []
    for name, each, facts in (
        (
            "scale_full",
            round(image + prompt + TOKENS_TO_SCALE * token, 1),
            {"tokens": TOKENS_TO_SCALE, "image": image, "prompt": prompt, "token": token},
        ),
        ("scale_mini", round(1 / rate, 4), {"model": mini["model"], "rate": rate}),
    ):
        hours = IMAGES_TO_SCALE * each / 3600
        shares = {"hours": round(hours, 1), "eight": round(hours / 8, 1), "many": round(hours / 64, 1)}
        line = f"| {words[name]} | {words['scale_hours']} |"
        rows.append(line.format(count=IMAGES_TO_SCALE, each=each, **facts, **shares))
    head = words["scale_head"].format(count=IMAGES_TO_SCALE)
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def vllm(language: str) -> str:
    """Build the table of `make bench-vllm`."""
    words, result = WORDS[language], stored("vllm_throughput")
    ours, theirs = (result["engines"][name]["clients"] for name in ("transformers", "vllm"))
    cell = "{requests_per_second} ({tokens_per_second})"
    rows = [[name.format(**result["versions"]) for name in words["vllm_rows"]], ["---"] * 3]
    rows += [[clients, cell.format(**ours[clients]), cell.format(**theirs[clients])] for clients in ours]
    return table(rows)


def quantization(language: str) -> str:
    """Build the table of `make bench-quantization`."""
    words, result = WORDS[language], stored("quantization_quality")
    rows = [words["quantization"], ("---",) * 6]
    for form, found in result["forms"].items():
        shares = (f"{100 * found[name]:.1f} %" for name in ("unchanged", "right"))
        apart = f"{100 * found['logit_distance']:.1f} %"
        name, size = words["forms"].get(form, form), f"{found['weights_mb']:.1f} MB"
        rows.append((name, size, *shares, f"{found['perplexity']:.3f}", apart))
    return table(rows)


def linear(language: str) -> str:
    """Build the table of `make bench-linear`."""
    words, result = WORDS[language], stored("linear")
    rows = [words["linear"], ("---",) * 5]
    for found in result["kernels"]:
        one, eight, many = (found["rows"][count] for count in ("1", "8", "64"))
        speeds = (f"{row['gop_per_second']:.0f}" for row in (eight, many))
        rows.append(
            (words["kernels"][found["name"]], f"{one['milliseconds']:.2f}", f"{one['of_bandwidth']:.2f}", *speeds)
        )
    return table(rows)


def bench_6b(language: str) -> str:
    """Build the table of `make bench-6b`: random weights of the full size."""
    words, found = WORDS[language], [stored(f"bench_6b_{bits}") for bits in (4, 8)]
    rows = [tuple(head.format(found[0]["prompt_tokens"]) for head in words["bench_6b"]), ("---",) * 8]
    for report in found:
        one, eight = report["decode"]
        form, peak = words["bench_6b_form"].format(report["bits"]), f"{report['peak_anonymous_gb']} GB"
        seconds = [words["seconds"].format(round(report[f"{part}_seconds"], 2)) for part in ("image", "prompt")]
        speeds = [words["bench_6b_speed"].format(round(row["tokens_per_second"], 2)) for row in (one, eight)]
        limits = [f"{share:.2f}" for share in (report["prompt_of_peak"], one["of_bandwidth"])]
        rows.append((form, peak, *seconds, limits[0], speeds[0], limits[1], speeds[1]))
    return table(rows)


PEERS = {"chatglm_cpp": "chatglm.cpp", "llama_cpp": "llama.cpp"}


def peers(language: str, side: str) -> str:
    """Build the table of `make bench-peers`, compared with one other program."""
    words, result = WORDS[language], stored(f"peers_{side}")
    rows = [tuple(head.format(PEERS[side]) for head in words["peers"]), ("---",) * 5]
    for bits in (4, 8):
        found = result[f"int{bits}"]
        parts = [found["of_bandwidth"][one] for one in (side, "ours")]
        # above 1 the probe read too little, because threads of the other program were still busy
        shares = " / ".join(f"{part:.2f}" for part in parts) if max(parts) <= 1 else ""
        for request, seconds in found["seconds"].items():
            name = words["peers_requests"][request].format(bits, result["prompt_tokens"])
            cells = [words["seconds"].format(round(seconds[one], 3)) for one in (side, "ours")]
            ratio = f"{found['times_as_fast'][request]:.2f}"
            rows.append((name, *cells, ratio, shares if request == "token" else ""))
    return table(rows)


def upstream(language: str) -> str:
    """Build the table of `make bench-upstream`, compared with upstream's own code."""
    words, result = WORDS[language], stored("peers_upstream")
    rows = [tuple(head.format(result["prompt_tokens"]) for head in words["upstream"]), ("---",) * 4]
    for form, name in words["upstream_form"].items():
        found = result[form]
        cells = []
        for request in ("image", "prompt", "token"):
            seconds = (round(found["seconds"][request][side], 3) for side in ("ours", "upstream"))
            cells.append(words["upstream_cell"].format(*seconds, f"{found['times_as_fast'][request]:.2f}"))
        rows.append((name, *cells))
    return table(rows)


def evaluate_mini(language: str) -> str:
    """Build the table of the packed model's forms on every offline task, as `make evaluate-mini` measured them."""
    words, result = WORDS[language], stored("evaluate_mini")
    forms = result["forms"]
    rows = [(words["evaluate_head"], *(words["evaluate_forms"][form] for form in forms)), ("---",) * (1 + len(forms))]
    for task, tested in forms["base"].items():
        for name in tested["metrics"]:
            cells = [_with_interval(found[task]["metrics"].get(name)) for found in forms.values()]
            rows.append((f"`{task}`: {TEXTS[language].get(name, name)}", *cells))
    return table(rows)


def pointing_game(language: str) -> str:
    """Build the table of `make pointing-game`."""
    words, hits = WORDS[language], stored("pointing_game")["hits"]
    rows = [words["pointing"], ("---",) * 3]
    for method in ("rollout", "gradient"):
        rows.append((f"`{method}`", *(_with_interval(hits.get(name)) for name in (method, f"{method}, other object"))))
    return table([*rows, (words["pointing_chance"], _with_interval(hits["chance"]), "")])


def _with_interval(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return ""
    return f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}], n = {entry['n']}"


def token_study(language: str) -> str:
    """Build the tables and figures of `make study-tokens-full`, or say that it has not run."""
    words = WORDS[language]["token_study"]
    try:
        result = stored("token_study")
    except FileNotFoundError:
        return str(words["not run"])
    suffix = "" if language == "en" else f"_{language}"
    pieces = [words["origin"].format(**result, cpu=result["machine"]["cpu"], cores=result["machine"]["cores"])]
    pieces += [table(rows) for rows in (_study_reading(words, result), _study_tasks(words, result))]
    pieces += [f"![{words[name]}](../images/token_study_{name}{suffix}.svg)" for name in ("right", "curves")]
    if result["tokenizer"]:
        pieces += [table(_study_codes(words, result)), f"![{words['pictures']}](../images/token_study_pictures.png)"]
    return "\n\n".join(pieces)


def _study_reading(words: dict[str, Any], result: dict[str, Any]) -> list[Any]:
    """Yield a row for each condition: tokens, right answers, range of the seeds, failures, seconds."""
    rows = [words["reading"], ("---",) * 9]
    for name, tokens in result["tokens"].items():
        mean, runs = result["means"][name], result["reading"][name].values()
        steps = [run["steps"] * run["seconds_per_step"] / 60 for run in runs if "seconds_per_step" in run]
        measured = [run for run in runs if run["failure"] is None]
        costs = [f"{1000 * fmean(run[key] for run in measured):.1f}" for key in SECONDS] if measured else ["", ""]
        spread = " - ".join(f"{share:.2f}" for share in mean.get("seeds", ()))
        found = [_share(mean.get("right")), spread, _share(mean.get("shuffled"))]
        minutes = f"{fmean(steps):.1f}" if steps else ""
        rows.append((f"`{name}`", str(tokens), *found, str(mean["failures"]), minutes, *costs))
    return rows


SECONDS = ("image_seconds", "question_seconds")


def _study_tasks(words: dict[str, Any], result: dict[str, Any]) -> list[Any]:
    """Yield a row for each task, a column for each condition; the last column is the commonest answer."""
    read = {name: mean["tasks"] for name, mean in result["means"].items() if "tasks" in mean}
    first = next(iter(read.values()), {})
    majority = {
        task: next(run for run in result["reading"][name].values() if run["failure"] is None)["tasks"][task]["majority"]
        for name in list(read)[:1]
        for task in first
    }
    rows = [(words["task"], *(f"`{name}`" for name in read), words["majority"]), ("---",) * (2 + len(read))]
    return [
        *rows,
        *(
            (f"`{task}`", *(f"{tasks[task]['share']:.2f}" for tasks in read.values()), f"{majority[task]:.2f}")
            for task in first
        ),
    ]


def _study_codes(words: dict[str, Any], result: dict[str, Any]) -> list[Any]:
    """Yield a row for each tokenizer: error, used codes, answers about originals, reconstructions and drawings."""
    rows = [words["codes"], ("---",) * 7]
    for name, runs in result["tokenizer"].items():
        found = runs["0"]
        if found["failure"] is not None:
            rows.append((f"`{name}`", found["failure"], *[""] * 5))
            continue
        drawn = [run for run in result["drawing"].get(name, {}).values() if run["failure"] is None]
        made = (_share(drawn[0]["right"]), f"{drawn[0]['picture_seconds']:.1f}") if drawn else ("", "")
        judged = (_share(found["original"]), _share(found["right"]))
        rows.append((f"`{name}`", f"{found['squared_error']:.4f}", str(found["used_codes"]), *judged, *made))
    return rows


def _share(entry: dict[str, Any] | None) -> str:
    return f"{entry['share']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]" if entry else ""


def table(rows: list[Any]) -> str:
    """Format rows of cells as a Markdown table, the head and its rule first."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


QUOTES = {
    "bench_6b": bench_6b,
    "peers": partial(peers, side="chatglm_cpp"),
    "peers_llama": partial(peers, side="llama_cpp"),
    "upstream": upstream,
    "linear": linear,
    "full_size": full_size,
    "full_size_4bit": partial(full_size, name="full_size_4bit"),
    "demo": demo,
    "quantization": quantization,
    "finetune_demo": finetune_demo,
    "finetune_memory": finetune_memory,
    "scale": scale,
    "evaluate_mini": evaluate_mini,
    "pointing_game": pointing_game,
    "vllm": vllm,
    "token_study": token_study,
}


def quoted(page: str, language: str) -> str:
    """Return the page with the content of every marker rebuilt."""
    for name, make in QUOTES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in page:
            before, rest = page.split(begin, 1)
            page = f"{before}{begin}{make(language)}\n{end}{rest.split(end, 1)[1]}"
    return page


SENTENCES = re.compile(r"<!-- figures (\w+)\.json -->\n(.*?)<!-- /figures -->", re.DOTALL)
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])\d(?:[\d.,-]*\d)?(?![A-Za-z])")
"""Pattern of a figure, a version or a date; not the 6 of 6B."""


def unknown_numbers(page: str) -> Iterator[str]:
    """Yield each number of a page's sentences that the named file does not have; code spans are ignored."""
    for name, text in SENTENCES.findall(page):
        recorded = re.findall(r"\d(?:[\d.,-]*\d)?", json.dumps(stored(name)))
        values = [float(number) for number in recorded if re.fullmatch(r"\d+(\.\d+)?", number)]
        for number in NUMBER.findall(re.sub(r"`[^`]*`", "", text)):
            decimals = len(number.partition(".")[2])
            rounded = {f"{value * scale:.{decimals}f}" for value in values for scale in (1, 100)}
            if number not in recorded and number.replace(",", "") not in rounded:
                yield f"{number} ({name}.json)"


def main() -> int:
    """Rewrite the tables of all pages, or only check; list the numbers in sentences that no file has."""
    check, wrong = "--check" in sys.argv, []
    for language, path in PAGES:
        page = path.read_text("utf-8")
        if (new := quoted(page, language)) != page:
            print(f"{path.name}: {'stale' if check else 'rewritten'}")
            wrong += [path.name] if check else []
            if not check:
                path.write_text(new, "utf-8")
        for number in unknown_numbers(new):
            print(f"{path.name}: {number} is not in the file. Rewrite the sentence.")
            wrong.append(path.name)
    if not wrong:
        print("every figure is as recorded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
