"""Sentences and table heads, English and Chinese, that `quote.py` fills with figures."""

from __future__ import annotations

from typing import Any

WORDS: dict[str, dict[str, Any]] = {
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
        "peers": ("form", "chatglm.cpp", "ours", "times as fast", "of bandwidth, theirs and ours"),
        "peers_form": "{} bits, a token of the answer",
        "peers_prompt": "{} bits, a prompt of {} tokens",
        "peers_from": "`make bench-peers`: both in turn in one run, the 6B's shapes with random weights, {cpu}, "
        "{threads} threads, load {load_average_1_min}, {bandwidth} GB/s, torch {torch}, chatglm.cpp 0.4.2 as its "
        "package builds it (AVX2), {date}.",
        "upstream": ("ours", "picture", "prompt of {} tokens", "a token of the answer"),
        "upstream_form": {"bfloat16": "bfloat16", "int8": "8 bits", "int4": "4 bits"},
        "upstream_cell": "{} s beside {} s: {} x",
        "upstream_from": "`make bench-upstream`: ours beside upstream's code in bfloat16, in turn in one run, random "
        "weights, the whole image encoder and {blocks} of the 28 blocks with the head, {cpu}, {threads} threads, load "
        "{load_average_1_min}, {bandwidth} GB/s, torch {torch}, {date}.",
        "linear": ("kernel", "1 row, ms", "of bandwidth", "8 rows, Gop/s", "64 rows, Gop/s"),
        "kernels": {
            "int4": "ours, 4 bits, groups of 32",
            "int8": "ours, 8 bits",
            "few_rows": "ours, bfloat16, up to 4 rows",
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
            "4-bit, calibrated": "4 位，校准",
            "4-bit, the rest 8-bit": "4 位，其余 8 位",
        },
        "asked": "{questions} 个问题，{model}，{date}。",
        "bench_6b": ("6B 的形状", "峰值", "图片", "{} 个词的提示", "一个回答", "占带宽", "八个回答"),
        "bench_6b_form": "{} 位，输出头和词嵌入 8 位",
        "bench_6b_speed": "每秒 {} 个词",
        "bench_6b_from": "{cpu}，{threads} 线程，负载 {load_average_1_min}，内核 {kernel}，{bandwidth} GB/s，"
        "torch {torch}，{date}；随机权重。",
        "peers": ("形式", "chatglm.cpp", "我们的", "快到几倍", "占带宽，对方和我们"),
        "peers_form": "{} 位，回答的一个词",
        "peers_prompt": "{} 位，{} 个词的提示",
        "peers_from": "`make bench-peers`：两者在一次运行中轮流作答，6B 的形状，随机权重，{cpu}，{threads} 线程，负载 "
        "{load_average_1_min}，{bandwidth} GB/s，torch {torch}，chatglm.cpp 0.4.2（按其软件包的默认方式编译，AVX2），"
        "{date}。",
        "upstream": ("我们的", "图片", "{} 个词的提示", "回答的一个词"),
        "upstream_form": {"bfloat16": "bfloat16", "int8": "8 位", "int4": "4 位"},
        "upstream_cell": "{} 秒，对方 {} 秒：{} 倍",
        "upstream_from": "`make bench-upstream`：我们的模型与原版代码（bfloat16）在一次运行中轮流作答，随机权重，"
        "完整的图像编码器，28 层中的 {blocks} 层加输出头，{cpu}，{threads} 线程，负载 {load_average_1_min}，"
        "{bandwidth} GB/s，torch {torch}，{date}。",
        "linear": ("内核", "1 行，毫秒", "占带宽", "8 行，Gop/s", "64 行，Gop/s"),
        "kernels": {
            "int4": "我们的，4 位，32 个一组",
            "int8": "我们的，8 位",
            "few_rows": "我们的，bfloat16，至多 4 行",
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
