"""The engine: many callers, each answered as if alone; a full queue, a cancelled, a late and a poisoned request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
import torch

import visualglm
from visualglm.errors import AnswerError, ImageError, PromptError
from visualglm.inference import running_batch
from visualglm.inference.running_batch import RunningBatch
from visualglm.preprocessing.prompt import Turn
from visualglm.serving.engine.engine import Engine, QueueFullError
from visualglm.serving.engine.explanation_job import ExplanationJob
from visualglm.serving.engine.job import Job, QueueTimeoutError
from visualglm.serving.engine.limits import EngineLimits
from visualglm.serving.metrics import Metrics

from ..conftest import SAMPLES

CONTENTS = [sample.read_bytes() for sample in SAMPLES]
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 1, "temperature": 1.4},
    {"do_sample": True, "seed": 2, "repetition_penalty": 1.3},
    {"max_new_tokens": 3},
]
QUESTIONS = ["这张图片里有什么？", "What is in the picture?", "How many objects are there?", "这是什么？"]


class Gate:
    """Holds the engine before the first request enters until it is opened, so that a test decides what waits together.

    `batches`: the seeds of the requests in each step; `poison`: raises an error for those that enter or advance.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.batches: list[list[Any]] = []
        self.poison: Callable[[str, list[int]], None] = lambda place, seeds: None
        add, step = RunningBatch.add, RunningBatch.step

        def gated_add(batch: Any, row: Any) -> None:
            self.opened.wait(60)
            self.poison("add", [row.settings.seed])
            add(batch, row)

        def noted_step(batch: Any) -> Any:
            self.batches.append([row.settings.seed for row in batch.rows])
            self.poison("step", self.batches[-1])
            return step(batch)

        monkeypatch.setattr(RunningBatch, "add", gated_add)
        monkeypatch.setattr(RunningBatch, "step", noted_step)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def run(opened: visualglm.VisualGLM) -> Iterator[Callable[..., Any]]:
    """Run a coroutine function with a started engine, and closes it."""
    engines: list[Engine] = []

    def with_engine(work: Callable[[Engine], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
        engines.append(Engine(opened, EngineLimits(**limits), Metrics()))
        engines[-1].start()
        return asyncio.run(work(engines[-1]))

    yield with_engine
    for engine in engines:
        engine.close()


async def whole(job: Job) -> str:
    return "".join([piece async for piece in job.pieces()])


def question(text: str, images: int = 1) -> list[Turn]:
    return [Turn(text, image_count=images)]


def test_every_caller_gets_what_it_would_get_alone(
    opened: visualglm.VisualGLM, gate: Gate, run: Callable[..., Any]
) -> None:
    cases = [(c, q, s) for c, s in zip(CONTENTS, SAMPLINGS, strict=True) for q in QUESTIONS]

    async def work(engine: Engine) -> list[str]:
        jobs = [await engine.ask(question(text), [content], **sampling) for content, text, sampling in cases]
        gate.opened.set()
        return list(await asyncio.gather(*map(whole, jobs)))

    said = run(work, max_batch=6)
    assert said == [opened.ask(content, text, **sampling).text for content, text, sampling in cases]
    assert max(map(len, gate.batches)) == 6


def test_a_image_is_encoded_once(run: Callable[..., Any]) -> None:
    async def work(engine: Engine) -> Engine:
        first = await whole(await engine.ask(question("这是什么？"), CONTENTS[:1]))
        turns = [Turn("这是什么？", first, 1), Turn("一共有几个物体？")]
        await whole(await engine.ask(turns, CONTENTS[:1]))
        await whole(await engine.ask(question("这是什么？", 2), CONTENTS[:2]))
        await whole(await engine.ask(question("这是什么？"), CONTENTS[2:3]))
        await whole(await engine.ask(question("这是什么？"), CONTENTS[:1]))
        return engine

    engine = run(work, remembered=2)
    assert (engine.memory.misses, engine.memory.hits) == (4, 2), "the third picture pushed the first one out"


def test_a_full_queue_refuses_and_recovers(gate: Gate, run: Callable[..., Any]) -> None:
    async def work(engine: Engine) -> None:
        jobs = [await engine.ask(question("这是什么？", 0), [])]
        while not engine.running:  # the first one has left the queue
            await asyncio.sleep(0.001)
        jobs += [await engine.ask(question("这是什么？", 0), []) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests"):
            await engine.ask(question("这是什么？", 0), [])
        jobs[2].cancel()  # who leaves makes room
        jobs.append(await engine.ask(question("这是什么？", 0), []))
        gate.opened.set()
        said = await asyncio.gather(*(whole(job) for place, job in enumerate(jobs) if place != 2))
        assert len(set(said)) == 1

    run(work, max_queue=2)


def test_who_leaves_while_waiting_leaves_nothing_behind(gate: Gate, run: Callable[..., Any]) -> None:
    async def work(engine: Engine) -> None:
        first = await engine.ask(question("这是什么？", 0), [])
        while not engine.running:
            await asyncio.sleep(0.001)
        for _ in range(5):
            (await engine.ask(question("这是什么？"), CONTENTS[:1])).cancel()
        last = await engine.ask(question("这是什么？"), CONTENTS[:1])
        assert list(engine._waiting) == [last]
        gate.opened.set()
        await asyncio.gather(whole(first), whole(last))

    run(work, max_queue=2)


def test_few_images_are_decoded_at_once(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, full, lock = 0, 0, threading.Event(), threading.Lock()

    async def work(engine: Engine) -> None:
        real = engine.memory.look_up

        def look_up(*given: Any) -> Any:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
                if at_once > 2:
                    full.set()
            full.wait(0.05)  # as long as a third might come
            with lock:
                at_once -= 1
            return real(*given)

        monkeypatch.setattr(engine.memory, "look_up", look_up)
        jobs = await asyncio.gather(*(engine.ask(question("这是什么？"), CONTENTS[:1]) for _ in range(6)))
        await asyncio.gather(*map(whole, jobs))

    run(work, decoders=2)
    assert most <= 2


def test_leaving_stops_within_a_token(run: Callable[..., Any]) -> None:
    async def work(engine: Engine) -> None:
        endless = {"min_length": 1900, "max_length": 2000}
        job = await engine.ask(question("描述这张图片。"), CONTENTS[:1], **endless)
        async for _ in job.pieces():
            said = len(job.ids)
            break
        job.cancel()
        await whole(await engine.ask(question("这是什么？"), CONTENTS[:1]))  # the next one is answered
        assert job.finish_reason == "cancelled"
        assert len(job.ids) <= said + 30, "far from the two thousand that were asked for"

    run(work)


def test_time_is_limited(gate: Gate, run: Callable[..., Any]) -> None:
    async def work(engine: Engine) -> None:
        first = await engine.ask(question("这是什么？", 0), [])
        while not engine.running:
            await asyncio.sleep(0.001)
        second = await engine.ask(question("这是什么？", 0), [])
        second._deadline = first._deadline = 0.0
        gate.opened.set()
        await whole(first)
        assert (len(first.ids), first.finish_reason) == (1, "length")
        with pytest.raises(QueueTimeoutError):
            await whole(second)

    run(work)


def test_one_poisoned_request_harms_no_other(opened: visualglm.VisualGLM, gate: Gate, run: Callable[..., Any]) -> None:
    def poison(place: str, seeds: list[int]) -> None:
        if place == "add" and 666 in seeds:
            raise RuntimeError("poison")

    gate.poison = poison

    async def work(engine: Engine) -> list[Any]:
        jobs = [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], seed=seed) for seed in (1, 666, 3)]
        gate.opened.set()
        return list(await asyncio.gather(*map(whole, jobs), return_exceptions=True))

    said = run(work)
    alone = opened.ask(SAMPLES[0], QUESTIONS[0]).text
    assert [said[0], said[2]] == [alone, alone]
    assert isinstance(said[1], RuntimeError)


def test_a_failing_processor_ends_its_own_answer_only(opened: visualglm.VisualGLM, run: Callable[..., Any]) -> None:
    def broken(input_ids: Any, scores: Any) -> Any:
        if input_ids.shape[1] > 33:
            raise AnswerError("broken")
        return scores

    async def work(engine: Engine) -> list[Any]:
        given: list[dict[str, Any]] = [{}, {"logits_processor": [broken]}, {}]
        jobs = [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], **one) for one in given]
        return list(await asyncio.gather(*map(whole, jobs), return_exceptions=True))

    said = run(work)
    assert said[0] == said[2] == opened.ask(SAMPLES[0], QUESTIONS[0]).text
    assert isinstance(said[1], AnswerError)


def test_a_step_that_fails_harms_those_that_were_speaking(
    opened: visualglm.VisualGLM, gate: Gate, run: Callable[..., Any]
) -> None:
    def poison(place: str, seeds: list[int]) -> None:
        if place == "step" and len(seeds) == 2:
            raise RuntimeError("two")

    gate.poison = poison

    async def work(engine: Engine) -> list[Any]:
        jobs = [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1]) for _ in range(3)]
        gate.opened.set()
        return list(await asyncio.gather(*map(whole, jobs), return_exceptions=True))

    *failed, answered = run(work, max_batch=2)
    assert [str(error) for error in failed] == ["two"] * 2
    assert answered == opened.ask(SAMPLES[0], QUESTIONS[0]).text


def test_a_request_without_memory_beside_others_waits_until_it_is_alone(
    opened: visualglm.VisualGLM, gate: Gate, run: Callable[..., Any]
) -> None:
    tried = 0

    def poison(place: str, seeds: list[int]) -> None:
        nonlocal tried
        if place == "add" and seeds == [2]:
            tried += 1
            if tried == 1:
                raise torch.OutOfMemoryError

    gate.poison = poison

    async def work(engine: Engine) -> list[str]:
        jobs = [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], seed=seed) for seed in (1, 2, 3)]
        gate.opened.set()
        return list(await asyncio.gather(*map(whole, jobs)))

    assert set(run(work)) == {opened.ask(SAMPLES[0], QUESTIONS[0]).text}
    assert tried == 2 and [1, 2] not in gate.batches and [2, 1] not in gate.batches


def test_a_request_without_memory_beside_an_explanation_waits_until_it_is_alone(
    opened: visualglm.VisualGLM, gate: Gate, run: Callable[..., Any]
) -> None:
    passes: list[str] = []
    waiting = threading.Event()

    def poison(place: str, seeds: list[int]) -> None:
        if place == "add" and "end" not in passes:
            passes.append("tried")
            raise torch.OutOfMemoryError

    def steps() -> Generator[None, None, Any]:
        waiting.wait(20)
        yield
        yield
        passes.append("end")

    gate.poison = poison

    async def work(engine: Engine) -> str:
        explained = await engine.prepare(question(QUESTIONS[0]), CONTENTS[:1], with_pixels=True)
        engine.enqueue(ExplanationJob(explained, steps()))
        asked = await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], seed=1)
        waiting.set()
        gate.opened.set()
        return await whole(asked)

    assert run(work) == opened.ask(SAMPLES[0], QUESTIONS[0]).text and passes == ["tried", "end"]


def test_requests_enter_and_leave_between_two_tokens(
    opened: visualglm.VisualGLM, gate: Gate, run: Callable[..., Any]
) -> None:
    long, short = {"min_length": 120, "max_length": 120}, {"max_new_tokens": 3}

    async def work(engine: Engine) -> list[str]:
        jobs = [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], seed=1, **long)]
        jobs += [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], seed=seed, **short) for seed in range(2, 8)]
        gate.opened.set()
        await asyncio.gather(*map(whole, jobs[1:]))
        assert jobs[0].finish_reason is None, "nobody waited for the longest answer"
        return [await whole(jobs[0]), *(job.text for job in jobs[1:])]

    said = run(work, max_batch=3)
    assert said[0] == opened.ask(SAMPLES[0], QUESTIONS[0], **long).text
    assert set(said[1:]) == {opened.ask(SAMPLES[0], QUESTIONS[0], **short).text}
    assert max(map(len, gate.batches)) == 3 and all(1 in seeds for seeds in gate.batches)


@pytest.mark.parametrize("fails", [False, True])
def test_compiled_steps_answer_whole_batches(
    opened: visualglm.VisualGLM, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any], fails: bool
) -> None:
    batches: list[int] = []
    generate = running_batch.generate_batch

    def noted(model: Any, rows: Any) -> None:
        batches.append(len(rows))
        if fails and any(row.settings.seed == 666 for row in rows):
            raise RuntimeError("poison")
        generate(model, rows)

    monkeypatch.setattr(running_batch, "generate_batch", noted)
    monkeypatch.setattr(opened.model, "compiles_steps", True)
    engine = Engine(opened, EngineLimits(), Metrics())

    async def work() -> list[Any]:
        jobs = [await engine.ask(question(QUESTIONS[0]), CONTENTS[:1], seed=seed) for seed in (1, 666, 3)]
        engine.start()  # all wait together
        return list(await asyncio.gather(*map(whole, jobs), return_exceptions=True))

    said = asyncio.run(work())
    engine.close()
    alone = opened.ask(SAMPLES[0], QUESTIONS[0]).text
    assert [said[0], said[2]] == [alone, alone]
    assert isinstance(said[1], RuntimeError) if fails else said[1] == alone
    assert batches == ([3, 1, 1, 1] if fails else [3])


def test_mistakes_do_not_wait(run: Callable[..., Any]) -> None:
    async def work(engine: Engine) -> None:
        with pytest.raises(ImageError):
            await engine.ask(question("?"), [b"no picture"])
        with pytest.raises(PromptError, match="fit"):
            await engine.ask(question("猫" * 5000, 0), [])
        assert engine.queued == 0

    run(work)


def test_closing_finishes_what_waits(opened: visualglm.VisualGLM, gate: Gate) -> None:
    engine = Engine(opened, EngineLimits(max_batch=1), Metrics())
    engine.start()

    async def work() -> list[str]:
        jobs = [await engine.ask(question("这是什么？", 0), []) for _ in range(3)]
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        while not engine._closing:
            await asyncio.sleep(0.001)
        with pytest.raises(QueueFullError, match="shutting down"):
            await engine.ask(question("这是什么？", 0), [])
        gate.opened.set()
        said = await asyncio.gather(*map(whole, jobs))
        await closing
        return list(said)

    assert len(set(asyncio.run(work()))) == 1
