"""training/pretrain: a recipe -> a trained model; one loop, the stages are data.

Run: `python -m visualglm.training.pretrain RECIPE.toml`; run again after a kill, it goes on where it was saved. Stage
kind `patches` trains the ViT under a throw-away head that says what covers every patch; kind `zones` adds the Q-Former,
whose first nine queries learn to say what stands in each ninth of the picture (so they cannot collapse into one
vector); kind `dialogue` trains all three networks to answer. The learning rate follows the wall-clock, so a run ends
when it should, fully annealed.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..glm import GLMBlock
from ..model import VisualGLMForConditionalGeneration
from ..scenes import speech
from ..scenes.seeds import Split
from ..scenes.vocabulary import COLOURS, KINDS, ZONES, Colour, Kind
from ..tokenizer import ChatGLMTokenizer
from ..vision import PatchEmbed
from .architecture import build_model
from .batches import Batch, PromptBuilder, Rows, SceneBatches
from .heads import Heads
from .initial import compare, place, whiten
from .recipe import Recipe, Stage, read_recipe

LOG_EVERY = 50
COLLAPSED = 0.05  # queries that differ less than this within a picture have become one vector


def answer_logits(model: VisualGLMForConditionalGeneration, rows: Rows, image_embeds: Tensor) -> Tensor:
    """Logits [B, answer length, vocabulary] for the answers of a block of rows."""
    columns = torch.arange(rows.start - 1, rows.input_ids.shape[1] - 1)
    return model(
        rows.input_ids,
        attention_mask=rows.attention_mask,
        image_embeds=image_embeds[rows.pictures],
        logits_to_keep=columns,
        use_cache=False,
    ).logits.float()


class Trainer:
    """The state of a run: model, throw-away head, optimizer, and how far it got."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        torch.set_num_threads(recipe.threads)
        self.recipe, self.folder = recipe, Path(recipe.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = ChatGLMTokenizer(recipe.vocabulary)
        self.model = build_model(recipe.model, self.tokenizer)
        self.heads = Heads(recipe.model)
        config = self.model.config
        self.prompts = PromptBuilder(self.tokenizer, config.image_length, int(config.image_token_id or 0))
        self.kind_words, self.colour_words = self._words(KINDS), self._words(COLOURS)
        self.stage_index, self.step, self.seconds = 0, 0, 0.0
        if not self._resume():
            self._begin()

    def _words(self, named: tuple[Kind, ...] | tuple[Colour, ...]) -> tuple[Tensor, Tensor]:
        """The pieces of the Chinese and of the English names."""
        zh = [speech.noun(n, "zh") if isinstance(n, Kind) else n.zh for n in named]
        en = [speech.noun(n, "en") if isinstance(n, Kind) else n.key for n in named]
        pieces = [torch.tensor([self.tokenizer.encode_plain(name)[-1] for name in names]) for names in (zh, en)]
        return pieces[0], pieces[1]

    def run(self) -> None:
        """Runs the stages that are left."""
        while self.stage_index < len(self.recipe.stages):
            self._run_stage(self.recipe.stages[self.stage_index])
            self.stage_index, self.step, self.seconds = self.stage_index + 1, 0, 0.0
            self.optimizer_file.unlink(missing_ok=True)
            self.save()

    @property
    def optimizer_file(self) -> Path:
        return self.folder / "optimizer.safetensors"

    def _run_stage(self, stage: Stage) -> None:
        optimizer = self._optimizer(stage)
        data = self._batches(stage, self.step, Split.TRAIN)
        self.log(stage=stage.name, parameters=sum(p.numel() for p in self.model.parameters()))
        started = saved = reported = time.monotonic()
        before = self.seconds
        meter: dict[str, float] = {}
        for batch in DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=6):
            self.seconds = before + time.monotonic() - started
            share = self.seconds / (60 * stage.minutes)
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * stage.learning_rate * _schedule(share, stage.warmup, stage.final_rate)
            if self.step == stage.compare_after > 0:
                self._compare(batch)
            _accumulate(meter, self._train_step(stage, batch, optimizer))
            self.step += 1
            if self.step % LOG_EVERY == 0:
                rate = LOG_EVERY * stage.pictures / (time.monotonic() - reported)
                reported = time.monotonic()
                means = {name: value / LOG_EVERY for name, value in meter.items()}
                self.log(stage=stage.name, step=self.step, minutes=self.seconds / 60, pictures_per_second=rate, **means)
                meter = {}
            if time.monotonic() - saved > 60 * self.recipe.save_minutes:
                self.save(optimizer)
                self.log(stage=stage.name, step=self.step, **self.validate(stage))
                saved = reported = time.monotonic()

    def _train_step(self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            loss, report = self._loss(stage, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        return {"loss": float(loss.detach()), "gradient": float(norm), **report}

    def _loss(self, stage: Stage, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        encoder = self.model.image_encoder
        tokens = encoder.vit(batch.pixel_values)
        patch_loss, right = self.heads.patch_loss(tokens, batch)
        loss, report = stage.patch_loss * patch_loss, {f"patch_{name}": share for name, share in right.items()}
        if stage.kind == "patches":
            return loss, report
        queries, _ = encoder.qformer(tokens)
        zone_loss, right = self.heads.zone_loss(queries, batch)
        report |= {f"zone_{name}": share for name, share in right.items()}
        loss = loss + stage.zone_loss * zone_loss
        report["query_std"] = float(queries.detach().float().std(dim=1).mean())
        if report["query_std"] < COLLAPSED:
            self.log(alarm="the queries have collapsed into one vector", query_std=report["query_std"])
        if stage.kind == "dialogue":
            image_embeds = encoder.glm_proj(queries)
            language, words = self._language_loss(batch, image_embeds), self._word_loss(batch, image_embeds)
            loss = loss + language + stage.word_loss * words
            report |= {"language": float(language.detach()), "words": float(words.detach())}
        return loss, report

    def _language_loss(self, batch: Batch, image_embeds: Tensor) -> Tensor:
        """Cross-entropy over the answers of all blocks; a long answer weighs as the root of its length."""
        total, weight = torch.zeros(()), 0.0
        for rows in batch.rows:
            logits = answer_logits(self.model, rows, image_embeds)
            losses = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none")
            share = (rows.targets >= 0).sum(dim=1, keepdim=True) ** -0.5
            total = total + (losses.view_as(rows.targets) * share).sum()
            weight += float((share * (rows.targets >= 0)).sum())
        return total / weight

    @torch.no_grad()
    def _compare(self, batch: Batch) -> None:
        """Two heads of the first block begin to look for the kind and for the colour that a question names."""
        block, embed = cast(GLMBlock, self.model.transformer.layers[0]), self.model.transformer.word_embeddings
        zones = self.model.encode_images(batch.pixel_values)[:, : len(ZONES)]
        vectors = block.input_layernorm(zones[batch.kinds[:, -len(ZONES) :] > 0])
        for head, words in enumerate((self.kind_words, self.colour_words)):
            compare(block.attention, head, block.input_layernorm(embed(torch.cat(words))), vectors)

    def _word_loss(self, batch: Batch, image_embeds: Tensor) -> Tensor:
        """Draws the vector of an occupied zone to the embeddings of the words for what stands there.

        [P, Q, hidden]: among the words of all kinds, then of all colours, in both languages, its own must be nearest.
        """
        zones, total = len(ZONES), torch.zeros(())
        vectors = F.normalize(image_embeds[:, :zones].float(), dim=-1)
        for labels, words in (
            (batch.kinds[:, -zones:], self.kind_words),
            (batch.colours[:, -zones:], self.colour_words),
        ):
            there = labels > 0
            for ids in words:
                embeddings = F.normalize(self.model.transformer.word_embeddings(ids), dim=-1)
                total = total + F.cross_entropy(8 * vectors[there] @ embeddings.T, labels[there] - 1)
        return total / 4

    @torch.no_grad()
    def validate(self, stage: Stage, batches: int = 3) -> dict[str, object]:
        """Share of validation answers that are right to the last token, per task; and how often 'yes' is said.

        Teacher forcing: where every token is the likeliest one, greedy decoding writes the same answer.
        """
        self.model.eval()
        right: dict[str, list[bool]] = {}
        yes = []
        yes_ids = {self.tokenizer.encode_plain(text)[index] for text, index in (("有，", 1), ("Yes,", 0))}
        for _, batch in zip(range(batches), self._batches(stage, 0, Split.VALIDATION), strict=False):
            image_embeds = self.model.encode_images(batch.pixel_values)
            for rows in batch.rows:
                best = answer_logits(self.model, rows, image_embeds).argmax(-1)
                exact = ((best == rows.targets) | (rows.targets < 0)).all(dim=1).tolist()
                for task, hit, ids in zip(rows.tasks, exact, best.tolist(), strict=True):
                    right.setdefault(task, []).append(hit)
                    if task == "exists":
                        yes.append(bool(yes_ids & set(ids[:2])))
        shares = {task: round(sum(hits) / len(hits), 3) for task, hits in sorted(right.items())}
        return {"exact": shares, "yes_ratio": round(sum(yes) / len(yes), 3)} if shares else {}

    def _batches(self, stage: Stage, first: int, split: Split) -> SceneBatches:
        # every stage draws other scenes
        offset = self.stage_index * 100_000_000 // stage.pictures
        sizes = self.recipe.model
        if split is not Split.TRAIN:
            stage = replace(stage, on_white=0, least=1, most=4, pictures=32)
        return SceneBatches(stage, self.prompts, sizes.image_size, sizes.patch_size, first + offset, split)

    def _named_parameters(self, stage: Stage) -> dict[str, nn.Parameter]:
        part = {"patches": "image_encoder.vit.", "zones": "image_encoder.", "dialogue": ""}[stage.kind]
        learning = {name: p for name, p in self.model.named_parameters() if name.startswith(part)}
        return {**learning, **{f"heads.{name}": p for name, p in self.heads.named_parameters()}}

    def _optimizer(self, stage: Stage) -> torch.optim.AdamW:
        """AdamW, weight decay on matrices only; its state comes back after a kill."""
        named = self._named_parameters(stage)
        groups = []
        for encoder, matrix in itertools.product((True, False), (True, False)):
            chosen = [
                parameter
                for name, parameter in named.items()
                if (parameter.dim() >= 2) == matrix and name.startswith("image_encoder.") == encoder
            ]
            rate, decay = stage.encoder_rate if encoder else 1.0, stage.weight_decay if matrix else 0.0
            groups.append({"params": chosen, "weight_decay": decay, "rate": rate})
        optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))
        if self.step and self.optimizer_file.exists():
            _restore(optimizer, named, load_file(self.optimizer_file))
        return optimizer

    def save(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Writes weights, head, optimizer and progress."""
        if optimizer is not None:
            save_file(_moments(optimizer, self._named_parameters(self._stage())), self.optimizer_file)
        self.model.save_pretrained(self.folder / "model")
        save_file(self.heads.state_dict(), self.folder / "heads.safetensors")
        progress = {"stage": self.stage_index, "step": self.step, "seconds": self.seconds}
        (self.folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")

    def _stage(self) -> Stage:
        return self.recipe.stages[self.stage_index]

    def _resume(self) -> bool:
        progress = self.folder / "progress.json"
        if not progress.exists():
            return False
        state = json.loads(progress.read_text(encoding="utf-8"))
        self.stage_index, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        self.model.load_state_dict(load_file(self.folder / "model" / "model.safetensors"))
        self.heads.load_state_dict(load_file(self.folder / "heads.safetensors"))
        return True

    def _begin(self) -> None:
        sample = replace(self._stage(), pictures=600, least=1, most=4, on_white=0)
        batch = next(iter(self._batches(sample, 0, Split.TRAIN)))
        vit = self.model.image_encoder.vit
        whiten(cast(PatchEmbed, vit.mixins["patch_embedding"]).proj, batch.pixel_values)
        place(vit.transformer.position_embeddings)

    def log(self, **values: object) -> None:
        """One JSON line to stdout and to the run's log."""
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
        line = json.dumps(rounded, ensure_ascii=False)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _schedule(share: float, warmup: float, final: float) -> float:
    """Linear warm-up to 1, then a cosine down to `final`."""
    if share < warmup:
        return max(share / warmup, 0.01)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _accumulate(meter: dict[str, float], values: dict[str, float]) -> None:
    for name, value in values.items():
        meter[name] = meter.get(name, 0.0) + value


def _moments(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's moments by parameter name."""
    found = ((name, key, value) for name, p in named.items() for key, value in optimizer.state.get(p, {}).items())
    return {f"{name}/{key}": value.contiguous().clone() for name, key, value in found}


def _restore(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], saved: dict[str, Tensor]) -> None:
    for path, value in saved.items():
        name, _, key = path.rpartition("/")
        optimizer.state[named[name]][key] = value


def main(arguments: Iterable[str]) -> None:
    """Trains what the recipe says."""
    Trainer(read_recipe(next(iter(arguments)))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
