"""Quotes figures in README and docs from files in the repository, between `<!-- name -->` marks.

`python benchmarks/quote.py` rewrites the pages; `--check` only compares, and exits 1 where a page says something else.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from visualglm.checkpoints.memory import in_words

ROOT = Path(__file__).parents[1]
PAGES = [("en", ROOT / "README.md"), ("zh", ROOT / "README_zh.md")]
PAGES += [(language, page) for language in ("en", "zh") for page in sorted((ROOT / "docs" / language).glob("*.md"))]
WORDS = {
    "en": {
        "load": "load",
        "memory": "peak anonymous memory while loading",
        "picture": "picture encoded",
        "prompt": "prompt of {} tokens read",
        "token": "each token of the answer",
        "seconds": "{} s",
        "of": "{} GB, {} x the model ({} GB)",
        "captioning": "Measured with {model} on {pictures} drawn pictures: {one} images/s at batch 1, {eight} at batch "
        "8 ({cpu}, {threads} threads, load {load_average_1_min}, {date}).",
        "batching": "`make bench-batching` asks everything twice, alone and in batches of {batch}: "
        "{answers_that_changed} of {answers} answers changed ({model}, {dtype}, {cpu}, {date}).",
        "serving": "`make bench-serve`, {clients} streaming clients for {seconds:.0f} s against the packed model: "
        "{answered} answers, {refused} x 503, nothing else; {unlike} answers unlike the same request alone; memory "
        "grew by {memory_growth_percent} % after warm-up. First token {first_p50} s (p95 {first_p95}), whole answer "
        "{total_p50} s (p95 {total_p95}), {cpu}, {cores} cores, load {load_average_1_min}, {date}.",
        "later": "Not measured yet: `{}` does it.",
        "demo_head": "| recipe | right before | right after | answers outside the data that stayed | CPU seconds |",
        "demo_row": "| `{method}` | {right_before:.0%} | {right_after:.0%} of {asked} | {probe_unchanged:.0%} | "
        "{cpu_seconds} |",
        "memory_head": "| model | method | foretold | measured | of it pages of files |",
        "memory_packed": "packed",
        "memory_wide": "scaled: the 6B's widths, {blocks} of {of_blocks} blocks, random",
        "cache": "Cached features made a run of {steps} steps of {rows_per_step} rows on {model} {speed_up} times as "
        "fast ({cpu_seconds_cached} instead of {cpu_seconds_not_cached} CPU seconds; {cpu}, {date}).",
        "ray_captioning": "`make bench-ray`, {pictures} drawn pictures, {model}, one thread a model: the local engine "
        "{local} images/s, Ray {one} with one actor and {two} with two, once the first part is there. Ray itself takes "
        "{start} s to start, and the first part then {first_one} s with one actor, {first_two} s with two: they open "
        "the model in that time ({cpu}, {cores} cores, load {load_average_1_min}, Ray {ray}, {date}).",
        "scale": "For {count:,} pictures, on machines like those measured:",
        "scale_head": "| model | one picture | {count:,} pictures | on 8 machines | on 64 machines |",
        "scale_full": "the 6B's shapes, answers of {tokens} tokens, one at a time | "
        "{picture} + {prompt} + {tokens} x {token} = {each} s",
        "scale_mini": "{model}, batches of 8 | 1 / {rate} = {each} s",
        "scale_hours": "{count:,} x {each} s / 3600 = {hours:,} h | {hours:,} / 8 = {eight:,} h | "
        "{hours:,} / 64 = {many:,} h",
        "vllm": "`make bench-vllm`, {requests} questions about pictures to the packed model, answers of at most "
        "{max_tokens} tokens, {dtype}, one thread. Requests a second (tokens a second):",
        "vllm_rows": ("clients", "our own server", "vLLM {vllm}"),
        "vllm_end": "{answers_that_differ} of {answers} answers differ. {cpu}, {cores} cores, load "
        "{load_average_1_min}, {date}: a small model on a CPU shows what an engine costs, not what it gains on a GPU.",
        "quantization": ("form", "weights", "unchanged answers", "right", "perplexity", "logits moved"),
        "forms": {},
        "asked": "{questions} questions, {model}, {date}.",
        "bench_6b": (
            "6B shapes",
            "peak",
            "picture",
            "prompt of {} tokens",
            "one answer",
            "of bandwidth",
            "eight",
        ),
        "bench_6b_form": "{} bits, head and word embeddings in 8",
        "bench_6b_speed": "{} tokens/s",
        "bench_6b_from": "{cpu}, {threads} threads, load {load_average_1_min}, kernel {kernel}, {bandwidth} GB/s, "
        "torch {torch}, {date}; random weights.",
        "linear": ("kernel", "1 row, ms", "of bandwidth", "8 rows, Gop/s", "64 rows, Gop/s"),
        "kernels": {
            "int4": "ours, 4 bits, groups of 32",
            "int8": "ours, 8 bits",
            "torch_int4": "torch `_weight_int4pack_mm_for_cpu`, groups of 32",
            "torch_int8": "torch `_weight_int8pack_mm`",
            "bfloat16": "torch, bfloat16",
        },
        "linear_from": "{cpu}, {threads} thread, processor time on a busy machine (load {load_average_1_min}), kernel "
        "{kernel}, torch {torch}, {date}.",
        "from": "{cpu}, {threads} threads, load {load_average_1_min}, torch {torch}, transformers {transformers}, "
        "bfloat16, {date}.",
    },
    "zh": {
        "load": "加载",
        "memory": "加载时匿名内存峰值",
        "picture": "图片编码",
        "prompt": "读入 {} 个词的提示",
        "token": "回答的每个词",
        "seconds": "{} 秒",
        "of": "{} GB，模型（{} GB）的 {} 倍",
        "captioning": "以 {model} 在 {pictures} 张绘制的图片上测得：批大小 1 时每秒 {one} 张，批大小 8 时每秒 "
        "{eight} 张（{cpu}，{threads} 线程，负载 {load_average_1_min}，{date}）。",
        "batching": "`make bench-batching` 把每个问题各问两遍，一遍单独，一遍放进 {batch} 个一批：{answers} 个回答中有 "
        "{answers_that_changed} 个不同（{model}，{dtype}，{cpu}，{date}）。",
        "serving": "`make bench-serve`，{clients} 个流式客户端对内置模型持续请求 {seconds:.0f} 秒：{answered} 个回答，"
        "{refused} 次 503，别无其他；{unlike} 个回答与单独请求时不同；内存比预热后增长 "
        "{memory_growth_percent} %。首个词 {first_p50} 秒（p95 {first_p95}），"
        "整个回答 {total_p50} 秒（p95 {total_p95}），{cpu}，{cores} 核，负载 {load_average_1_min}，{date}。",
        "later": "尚未测量：用 `{}` 测量。",
        "demo_head": "| 配方 | 训练前正确 | 训练后正确 | 数据之外未变的答案 | CPU 秒 |",
        "demo_row": "| `{method}` | {right_before:.0%} | {asked} 个中的 {right_after:.0%} | {probe_unchanged:.0%} | "
        "{cpu_seconds} |",
        "memory_head": "| 模型 | 方法 | 预计 | 实测 | 其中文件页 |",
        "memory_packed": "内置",
        "memory_wide": "缩小的：6B 的宽度，{of_blocks} 层中的 {blocks} 层，随机权重",
        "cache": "缓存向量使 {model} 上每步 {rows_per_step} 行、共 {steps} 步的运行快到 {speed_up} 倍"
        "（{cpu_seconds_cached} 而不是 {cpu_seconds_not_cached} CPU 秒；{cpu}，{date}）。",
        "ray_captioning": "`make bench-ray`，{pictures} 张绘制的图片，{model}，每个模型一个线程：本地引擎每秒 "
        "{local} 张；第一个分片写出之后，Ray 用一个执行者每秒 {one} 张，用两个每秒 {two} 张。Ray 自身启动要 "
        "{start} 秒；之后到第一个分片，一个执行者要 {first_one} 秒，两个要 {first_two} 秒，打开模型也在其中"
        "（{cpu}，{cores} 核，负载 {load_average_1_min}，Ray {ray}，{date}）。",
        "scale": "在与实测相同的机器上，{count:,} 张图片：",
        "scale_head": "| 模型 | 一张图片 | {count:,} 张图片 | 8 台机器 | 64 台机器 |",
        "scale_full": "6B 的形状，回答 {tokens} 个词，逐张 | {picture} + {prompt} + {tokens} x {token} = {each} 秒",
        "scale_mini": "{model}，每批 8 张 | 1 / {rate} = {each} 秒",
        "scale_hours": "{count:,} x {each} 秒 / 3600 = {hours:,} 小时 | {hours:,} / 8 = {eight:,} 小时 | "
        "{hours:,} / 64 = {many:,} 小时",
        "vllm": "`make bench-vllm`，向内置模型提出 {requests} 个关于图片的问题，回答至多 {max_tokens} 个词，{dtype}，"
        "单线程。每秒请求数（每秒词数）：",
        "vllm_rows": ("客户端", "我们自己的服务器", "vLLM {vllm}"),
        "vllm_end": "{answers} 个回答中有 {answers_that_differ} 个不同。{cpu}，{cores} 核，负载 {load_average_1_min}，"
        "{date}：CPU 上的小模型只显示引擎的开销，而不是它在 GPU 上的收益。",
        "quantization": ("形式", "权重", "不变的回答", "正确", "困惑度", "logits 偏移"),
        "forms": {
            "as stored": "原样",
            "8-bit": "8 位",
            "8-bit, everything": "8 位，全部",
            "4-bit": "4 位",
            "4-bit, the rest 8-bit": "4 位，其余 8 位",
        },
        "asked": "{questions} 个问题，{model}，{date}。",
        "bench_6b": ("6B 的形状", "峰值", "图片", "{} 个词的提示", "一个回答", "占带宽", "八个回答"),
        "bench_6b_form": "{} 位，输出头和词嵌入 8 位",
        "bench_6b_speed": "每秒 {} 个词",
        "bench_6b_from": "{cpu}，{threads} 线程，负载 {load_average_1_min}，内核 {kernel}，{bandwidth} GB/s，"
        "torch {torch}，{date}；随机权重。",
        "linear": ("内核", "1 行，毫秒", "占带宽", "8 行，Gop/s", "64 行，Gop/s"),
        "kernels": {
            "int4": "我们的，4 位，32 个一组",
            "int8": "我们的，8 位",
            "torch_int4": "torch `_weight_int4pack_mm_for_cpu`，32 个一组",
            "torch_int8": "torch `_weight_int8pack_mm`",
            "bfloat16": "torch，bfloat16",
        },
        "linear_from": "{cpu}，{threads} 线程，忙碌机器上的处理器时间（负载 {load_average_1_min}），内核 {kernel}，"
        "torch {torch}，{date}。",
        "from": "{cpu}，{threads} 线程，负载 {load_average_1_min}，torch {torch}，transformers {transformers}，"
        "bfloat16，{date}。",
    },
}


def full_size(language: str, name: str = "full_size") -> str:
    """The table of `make full-size`, or of `make full-size-4bit`."""
    words, result = WORDS[language], stored(name)
    table = "\n".join(f"| {name} | {value} |" for name, value in full_size_rows(words, language, result))
    facts = {**result["machine"], **result["versions"], "date": result["date"][:10]}
    return f"| | |\n| --- | --- |\n{table}\n\n{words['from'].format(**facts)}"


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
    facts = {**result["machine"], **result["versions"], **result, "date": result["date"][:10]}
    facts |= {"one": result["images_per_second_at_batch_1"], "eight": result["images_per_second_at_batch_8"]}
    return WORDS[language]["captioning"].format(**facts)


def batching(language: str) -> str:
    """What `make bench-batching` measured."""
    result = json.loads((ROOT / "benchmarks/results/batching.json").read_text("utf-8"))
    dtype = result["dtype"].removeprefix("torch.")
    return WORDS[language]["batching"].format(
        **{**result["machine"], **result, "dtype": dtype, "date": result["date"][:10]}
    )


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
    facts = {**result["machine"], **load, "date": result["date"][:10], "unlike": load["answers_unlike_alone"]}
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
    return words["cache"].format(**{**result["machine"], **result, "date": result["date"][:10]})


def stored(name: str) -> dict[str, Any]:
    """A file of results, empty where it was not measured yet."""
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def ray_captioning(language: str) -> str:
    """What `make bench-ray` measured."""
    result = stored("ray_captioning")
    if not result:
        return WORDS[language]["later"].format("make bench-ray")
    facts = {**result["machine"], **result["versions"], **result, "date": result["date"][:10]}
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
    table = "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])
    return f"{words['scale'].format(count=PICTURES_TO_SCALE)}\n\n{table}"


def vllm(language: str) -> str:
    """What `make bench-vllm` measured."""
    words, result = WORDS[language], stored("vllm_throughput")
    if not result:
        return words["later"].format("make bench-vllm")
    facts = {**result["machine"], **result["versions"], **result, "date": result["date"][:10]}
    ours, theirs = (result["engines"][name]["clients"] for name in ("transformers", "vllm"))
    cell = "{requests_per_second} ({tokens_per_second})"
    rows = [[name.format(**facts) for name in words["vllm_rows"]], ["---"] * 3]
    rows += [[clients, cell.format(**ours[clients]), cell.format(**theirs[clients])] for clients in ours]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{words['vllm'].format(**facts)}\n\n{table}\n\n{words['vllm_end'].format(**facts)}"


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
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    asked = next(iter(result["forms"].values()))["questions"]
    return f"{table}\n\n{words['asked'].format(questions=asked, model=result['model'], date=result['date'][:10])}"


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
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    facts = {**result["machine"], **result["versions"], "kernel": result["kernel"], "date": result["date"][:10]}
    return f"{table}\n\n{words['linear_from'].format(**facts)}"


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
    facts = {**last["machine"], **last["versions"], "kernel": last["kernel"], "date": last["date"][:10]}
    facts["bandwidth"] = last["decode"][0]["bandwidth_gb_per_second"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{words['bench_6b_from'].format(**facts)}"


QUOTES = {
    "bench_6b": bench_6b,
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
