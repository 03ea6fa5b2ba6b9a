"""A fine-tuning run, from data and base model to the saved result and its evaluation.

    data --> samples --> model --> plan --> features --> answers before --> Trainer --> answers after --> result, report

`say` receives each line for the user.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..adapters.files import base_of
from ..checkpoints import find_vocabulary, local_folder, read_config, resolve_vocabulary
from ..checkpoints.quantize import plan_of_config
from ..checkpoints.save_sat import ADAPTER
from ..checkpoints.tensor_check import check_finite_model
from ..conversation import VisualGLM, load
from ..errors import UsageError, require_extra
from ..files.atomic import install_files, scratch_folder, write_file
from ..preprocessing.processor import VisualGLMProcessor
from ..training.distributed import join, leave, world
from .config import Finetuning
from .data_report import findings
from .dataset import Collator
from .evaluation import EvalQuestion, answers, probes, score
from .forgetting import AFTER, BEFORE, ask_scenes, describe_forgetting
from .fsdp_trainer import FsdpTrainer, check_accelerate_fsdp_off
from .html_report import Answered, write_report
from .image_feature_cache import ImageFeatureCache, compute_features, describe_image_handling
from .initial_adapter import check_initial_adapter
from .resume import checkpoint_to_resume, is_first, read_before, write_before, write_recipe
from .run_plan import RunPlan, plan_of
from .saved_checkpoint import ADVICE
from .splits import DataSplits, answer_words, held_out_questions, read_samples, split_data
from .trainable_model import TrainableModel, check_finite, prepare_for_training
from .trainer import (
    METRICS,
    FinetuneTrainer,
    InterruptCallback,
    arguments,
    callbacks,
    last_step,
    read_metrics,
    require_tensorboard,
    without_printing,
)

RESULT, REPORT = "result.json", "report.html"
BNB_AVX512_FLAG = "support_avx512bf16_for_cpu"
Say = Callable[[str], None]


def check(recipe: Finetuning, say: Say) -> int:
    """Report what the data holds and return the number of invalid rows. No weights are loaded."""
    reader = _load_processor(recipe)
    files = [recipe.data, *([recipe.validation] if recipe.validation else [])]
    broken = 0
    for file in files:
        samples = read_samples(replace(recipe, skip_bad=True), file, *reader)
        broken += len(samples.bad)
        for line in findings(samples):
            say(line)
    return broken


def finetune(recipe: Finetuning, say: Say, resume: bool = False, device: str = "auto") -> bool:
    """Run a fine-tuning. Returns False if Ctrl-C or SIGTERM stopped it early; then `resume` continues it.

    Raises:
        UsageError: the recipe, the data or the output folder cannot be used, or the loss shows no progress.
        CheckpointError: the base model cannot be loaded.
    """
    check_accelerate_fsdp_off()
    require_tensorboard(recipe)
    require_extra("train", "The report of fine-tuning", "matplotlib")
    if recipe.forgetting:
        require_extra("eval", "The setting forgetting", "pycocoevalcap", "scipy")
    checkpoint = checkpoint_to_resume(recipe, Path(recipe.output), resume, say)
    # before the model is loaded, so that an unsuitable adapter or an invalid row fails at once
    check_initial_adapter(recipe)
    sides = split_data(recipe, *_load_processor(recipe), say)
    if world() > 1:
        join(device)
    model = _load_base(recipe, device)
    words = answer_words(sides, recipe.ptuning.tokens) if recipe.method == "ptuning" else ()
    ready = prepare_for_training(model.model, recipe, base_of(recipe.base_model), words)
    lengths = [sides.learned.samples.lengths[index] for index in sides.learned.indices]
    plan = plan_of(ready, lengths, len(sides.held_out) if sides.held_out else 0, world())
    for line in (*plan.lines(), describe_image_handling(recipe)):
        say(line)
    if is_first():
        finished = run_main_process(TrainingJob(ready, sides, plan, checkpoint), model, say, device)
    else:
        finished = _train(ready, sides, plan, checkpoint).finished
    leave()
    return finished


@dataclass(frozen=True)
class TrainingJob:
    """A model to train, its data, its plan, and the checkpoint to resume from."""

    ready: TrainableModel
    sides: DataSplits
    plan: RunPlan
    checkpoint: str | None


def run_main_process(job: TrainingJob, model: VisualGLM, say: Say, device: str) -> bool:
    """Run rank 0: answer before training, train, save the result, evaluate and report."""
    recipe, ready = job.ready.recipe, job.ready
    output = Path(recipe.output)
    write_recipe(recipe, output)
    asked = held_out_questions(job.sides, recipe.answers)
    before = _answer_before(output, ready, model, asked, job.checkpoint is not None, say)
    end = _train(ready, job.sides, job.plan, job.checkpoint)
    if not end.finished:
        say(f"Stopped at step {end.step} and saved. Run the same command with --resume to continue.")
        return False
    if end.weights is not None:
        # the model was sharded: load a whole one with the trained weights
        model = _load_base(recipe, device)
        ready = prepare_for_training(model.model, recipe, ready.base)
        ready.load_weights(end.weights)
    save_result(ready, end.step)
    evaluate_and_report(output, ready, model, asked, before, say)
    return True


def _load_processor(recipe: Finetuning) -> tuple[VisualGLMProcessor, int]:
    """Return the processor and the maximum tokens of a row, read from the model's small files.

    Raises:
        TokenizerError: the base has no vocabulary file, and the recipe names none.
    """
    folder = local_folder(recipe.base_model)
    config = read_config(folder)
    vocabulary = resolve_vocabulary(recipe.tokenizer or (folder if folder.is_dir() else folder.parent))
    return VisualGLMProcessor.for_config(config, vocabulary), recipe.max_tokens or config.max_sequence_length


def _load_base(recipe: Finetuning, device: str) -> VisualGLM:
    """Load the base model in the dtype of the recipe, or in 4 bits for QLoRA.

    Raises:
        UsageError: bitsandbytes is not installed, the method needs an unquantized base, or float16 was set on a CPU.
    """
    _check_base_not_quantized(recipe)
    dtype = "bfloat16" if recipe.dtype == "auto" and torch.cuda.is_available() and device != "cpu" else recipe.dtype
    options: dict[str, Any] = {}
    if recipe.method == "qlora":
        options["quantization_config"] = four_bit()
    model = load(recipe.model or None, tokenizer=recipe.tokenizer or None, device=device, dtype=dtype, **options)
    check_finite_model(model.model, recipe.base_model)
    if model.model.device.type == "cpu" and model.model.transformer.final_layernorm.weight.dtype == torch.float16:
        raise UsageError("float16 does not train on a CPU. Set dtype to bfloat16 or float32.")
    for module in model.model.modules():
        if hasattr(module, BNB_AVX512_FLAG):  # else the first answer packs the 4-bit weights for inference for good
            setattr(module, BNB_AVX512_FLAG, False)
    return model


def _check_base_not_quantized(recipe: Finetuning) -> None:
    """Raise `UsageError` if the base is quantized and the method would train or quantize it."""
    if recipe.method not in ("full", "qlora"):
        return
    stored = plan_of_config(read_config(local_folder(recipe.base_model)))
    if stored is not None:
        raise UsageError(
            f"{recipe.model} is in {stored.bits} bits already, and method {recipe.method} needs the unquantized base. "
            "Give that one, or use method lora or ptuning."
        )


def four_bit() -> Any:
    """Configure NF4 for the language model's blocks; vision-side modules and LM head stay unquantized.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    require_extra("qlora", "a 4-bit base", "bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["image_encoder", "lm_head"]
    )


def _answer_before(
    output: Path, ready: TrainableModel, model: VisualGLM, asked: list[EvalQuestion], resume: bool, say: Say
) -> list[list[str]]:
    """Return the answers before training to held-out rows and probes; a resumed run reads them from a file.

    They are those of the base model, or of the `adapter` that is trained further.
    """
    stored = read_before(output, [asked, probes()]) if resume else None
    if stored is not None:
        return stored
    prefix = ready.model.get_mixin(ADAPTER) if ADAPTER in ready.model.mixins else None
    untrained = prefix is not None and not ready.recipe.adapter
    if untrained:  # a new prefix changes answers before it is trained; new LoRA does not
        ready.model.del_mixin(ADAPTER)
    say(_asking("before", asked))
    said = _answer_all(model, asked, ready)
    if ready.recipe.forgetting:
        ask_scenes(model, ready, output / BEFORE)
    if untrained:
        ready.model.add_mixin(ADAPTER, prefix)
    write_before(output, [asked, probes()], said)
    return said


def _asking(when: str, asked: list[EvalQuestion]) -> str:
    """Announce the answers to compare, which take the 6B minutes."""
    held_out = f"{len(asked)} held-out questions and " if asked else ""
    return f"answering {held_out}{len(probes())} questions outside the data, {when} training"


def _answer_all(model: VisualGLM, asked: list[EvalQuestion], ready: TrainableModel) -> list[list[str]]:
    language: Any = ready.recipe.language
    return [answers(model, them, language, ready.recipe.max_new_tokens, ready.dtype) for them in (asked, probes())]


@dataclass(frozen=True)
class TrainingResult:
    """The step of the model's weights, False if it was stopped early, and the trained weights of a sharded model."""

    step: int
    finished: bool
    weights: dict[str, torch.Tensor] | None = None


def _train(ready: TrainableModel, sides: DataSplits, plan: RunPlan, checkpoint: str | None) -> TrainingResult:
    """Train to the end, or until Ctrl-C or SIGTERM."""
    recipe, inside = ready.recipe, ready.model
    with scratch_folder(Path(recipe.output).parent, "features") as scratch:  # one per process
        features = _compute_features(ready, sides, scratch / "features.bin")
        used = sides.with_pixels(features is None)
        interrupt = InterruptCallback()
        sharded = recipe.sharding == "fsdp" and world() > 1
        loop = (FsdpTrainer if sharded else FinetuneTrainer)(
            ready,
            args=arguments(recipe, plan, ready.dtype, inside.device),
            train_dataset=used.learned,
            eval_dataset=used.held_out,
            data_collator=Collator(inside.config.pad_token_id, features),
            callbacks=callbacks(recipe, plan, interrupt),
        )
        without_printing(loop).train(resume_from_checkpoint=checkpoint)
    return TrainingResult(last_step(loop), not interrupt.asked, ready.trained_weights() if sharded else None)


def _compute_features(ready: TrainableModel, sides: DataSplits, file: Path) -> ImageFeatureCache | None:
    """Compute the features of every image, if the recipe caches them."""
    if not ready.recipe.caches:
        return None
    inside = ready.model
    with torch.autocast(inside.device.type, ready.dtype, enabled=ready.dtype != torch.float32):
        return compute_features(inside, sides.image_processor, sides.images(), file)


def save_result(ready: TrainableModel, step: int) -> None:
    """Save the result: an adapter, or for method full a model in the native format."""
    with install_files(Path(ready.recipe.output), ADVICE) as folder:
        if ready.config is not None:
            ready.save_adapter(folder, step)
            return
        model = ready.model.to(ready.dtype)
        check_finite(dict(model.named_parameters()), step)
        model.save_pretrained(folder)
        vocabulary = find_vocabulary(local_folder(ready.recipe.tokenizer or ready.recipe.base_model))
        if vocabulary is not None:
            shutil.copyfile(vocabulary, folder / vocabulary.name)


def evaluate_and_report(
    output: Path, ready: TrainableModel, model: VisualGLM, asked: list[EvalQuestion], before: list[list[str]], say: Say
) -> None:
    """Answer after training, and write `result.json` and `report.html`."""
    say(_asking("after", asked))
    after = _answer_all(model, asked, ready)
    before_score, after_score = (score(asked, said[0]) for said in (before, after))
    kept = sum(a == b for a, b in zip(before[1], after[1], strict=True)) / max(1, len(before[1]))
    facts = [f"unchanged answers outside the data: {100 * kept:.0f} % of {len(after[1])}"]
    result: dict[str, Any] = {"asked": len(asked), "right_before": 0.0, "right_after": 0.0, "probe_unchanged": kept}
    if before_score and after_score:
        scores = {"before": before_score, "after": after_score}
        words = [f"{name} {found.value:.1%} [{found.low:.0%}, {found.high:.0%}]" for name, found in scores.items()]
        facts.insert(0, f"correct held-out answers: {', '.join(words)} of {len(asked)}")
        result |= {"right_before": before_score.value, "right_after": after_score.value}
        result |= {"before": before_score.to_json(), "after": after_score.to_json()}
    if ready.recipe.forgetting:
        ask_scenes(model, ready, output / AFTER)
        facts += describe_forgetting(output)
    for fact in facts:
        say(fact)
    write_file(output / RESULT, json.dumps(result, indent=2) + "\n")
    held_out, probe = (Answered(them, before[index], after[index]) for index, them in enumerate((asked, probes())))
    write_report(output / REPORT, read_metrics(output / METRICS), facts, held_out, probe)
    say(f"written: {output / REPORT}")
