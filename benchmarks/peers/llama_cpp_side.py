"""The llama.cpp process of `beside_cpp.py`, run by a Python with `llama-cpp-python` and `gguf`.

    write FILE BITS      random weights of a llama in q4_0 or q8_0
    serve FILE           answers `prompt N`, `token` (one more) and `rows N` (one more in N rows), by `side.py`

The llama has ChatGLM-6B's width, blocks, heads and vocabulary, and an MLP whose three matrices have the size of
ChatGLM's two, so a token reads 6.18 G weights; ChatGLM-6B reads 6.17 G. It does not import our package.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from side import serve

BLOCKS, WIDTH, HEADS, INNER, VOCABULARY = 28, 4096, 32, 10944, 130528
ROW_PROMPT, MOST_ROWS, LONGEST = 64, 8, 1152
BLOCK = 32  # weights that share a scale, in both formats
SCALE = 0.02 / 4.6


def write(file: Path, bits: int) -> None:
    """Write a GGUF file of random blocks; equal shapes share one array, so that little memory is needed."""
    import gguf

    form = gguf.GGMLQuantizationType.Q4_0 if bits == 4 else gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    shapes = {(VOCABULARY, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)}
    matrices = {shape: random_blocks(*shape, bits) for shape in shapes}
    norm = np.ones(WIDTH, dtype=np.float32)

    def add(name: str, *shape: int) -> None:
        if shape:
            writer.add_tensor(f"{name}.weight", matrices[shape], raw_dtype=form)
        else:
            writer.add_tensor(f"{name}.weight", norm)

    add("token_embd", VOCABULARY, WIDTH)
    add("output_norm")
    add("output", VOCABULARY, WIDTH)
    for block in range(BLOCKS):
        for part in ("attn_norm", "ffn_norm"):
            add(f"blk.{block}.{part}")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{part}", WIDTH, WIDTH)
        for part, shape in {"gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}.items():
            add(f"blk.{block}.ffn_{part}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(rows: int, columns: int, bits: int) -> np.ndarray:
    """Return quantized rows as bytes: of every 32 weights a float16 scale, then their integers."""
    rng = np.random.default_rng(0)
    bytes_of_block = 2 + BLOCK * bits // 8
    blocks = rng.integers(0, 256, size=(rows, columns // BLOCK, bytes_of_block), dtype=np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(SCALE if bits == 4 else SCALE / 16).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


class Llama:
    """A model and two contexts: one row, and several rows."""

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit("llama.cpp did not open the file.")
        self.one = self.context(LONGEST, 1)
        self.many = self.context(MOST_ROWS * 2 * ROW_PROMPT, MOST_ROWS)
        self.length = 0
        self.rows_length = 0

    def context(self, tokens: int, rows: int) -> Any:
        """Create a context as `llama-bench` does, with as many threads as cores."""
        settings = self.api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = tokens, rows
        settings.n_batch, settings.n_ubatch = 2048, 512
        settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
        return self.api.llama_init_from_model(self.model, settings)

    def prompt(self, tokens: str) -> None:
        """Compute a prompt from the start."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.one), True)
        self.length = int(tokens)
        self.decode(self.one, [(0, position) for position in range(self.length)])

    def token(self) -> None:
        """Compute one more token."""
        self.decode(self.one, [(0, self.length)])
        self.length += 1

    def rows(self, count: str) -> None:
        """Compute one more token of several rows; the first call computes their prompts, too."""
        rows = range(int(count))
        if not self.rows_length:
            for row in rows:
                self.decode(self.many, [(row, position) for position in range(ROW_PROMPT)])
            self.rows_length = ROW_PROMPT
        self.decode(self.many, [(row, self.rows_length) for row in rows])
        self.rows_length += 1

    def decode(self, context: Any, places: list[tuple[int, int]]) -> None:
        """Compute a batch of (row, position), with the logits of the last token of each row."""
        batch = self.api.llama_batch_init(len(places), 0, 1)
        last = {row: index for index, (row, _) in enumerate(places)}
        for index, (row, position) in enumerate(places):
            batch.token[index] = 5 + (97 * position + row) % (VOCABULARY - 5)
            batch.pos[index], batch.n_seq_id[index] = position, 1
            batch.seq_id[index][0], batch.logits[index] = row, last[row] == index
        batch.n_tokens = len(places)
        if self.api.llama_decode(context, batch):
            raise SystemExit("llama.cpp could not compute the batch.")
        self.api.llama_synchronize(context)
        assert ctypes.cast(self.api.llama_get_logits(context), ctypes.c_void_p).value
        self.api.llama_batch_free(batch)


def main() -> None:
    """Write the file, or answer requests; `beside_cpp.py` asks both sides in turn."""
    action, file, *bits = sys.argv[1:]
    if action == "write":
        write(Path(file), int(bits[0]))
        return
    llama, size = Llama(Path(file)), Path(file).stat().st_size
    embedding = size * VOCABULARY * WIDTH // (2 * VOCABULARY * WIDTH + BLOCKS * (4 * WIDTH**2 + 3 * WIDTH * INNER))
    serve(size - embedding, {"prompt": llama.prompt, "token": llama.token, "rows": llama.rows})


if __name__ == "__main__":
    main()
