"""The batcher: concurrent requests share batches of a model, and no request is lost."""

import asyncio
import queue
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder import ArtifactError, Embedder, ImageError, InputError, TokenizedText
from embedder.engine.batching import BatchLimits
from embedder.serve import compute, jobs
from embedder.serve.batch_model import BatchedEmbedder, UnreadableImage
from embedder.serve.batcher import Batcher, BatcherSettings
from embedder.serve.errors import RequestRefused
from tests.tiny import write_tiny_artifact

DIMENSION = 2


class FakeModel:
    """A model whose vectors are the first token id and the number of tokens. Batches wait until `open` is set."""

    row_size = DIMENSION

    def __init__(self, *, threads=1, images=None, budget=20, is_open=True):
        self.batch_limits = BatchLimits(budget, threads, None, images)
        self.batches, self.single = [], []
        self.started = threading.Semaphore(0)
        self.open = threading.Event()
        self.error_of = {}
        if is_open:
            self.open.set()

    def run(self, texts, *, single_thread):
        firsts = [int(text.ids[0]) for text in texts]
        self.batches.append(firsts)
        self.single.append(single_thread)
        self.started.release()
        self.open.wait(60)
        for first in firsts:
            if first in self.error_of:
                raise self.error_of[first]
        return np.float32([[text.ids[0], len(text)] for text in texts]).reshape(len(texts), DIMENSION)

    def run_images(self, images):
        self.batches.append(list(images))
        if images[0].startswith(b"bad"):
            raise UnreadableImage("it is no image")
        return np.float32([[len(images[0]), -1]])


class Log:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.batches, self.requests, self.refused = [], [], []

    def batch_ended(self, report):
        self.batches.append(report)

    def request_ended(self, report):
        self.requests.append(report)

    def request_refused(self, code):
        self.refused.append(code)


def text(first, length=4, *, cut=False):
    return TokenizedText(np.int64([first] + [0] * (length - 1)), cut=cut)


def expected(*texts):
    return [[float(each.ids[0]), float(len(each))] for each in texts]


async def wait_for_start(model):
    """Wait until the model has begun one more batch."""
    await asyncio.to_thread(model.started.acquire)


def run(coroutine):
    return asyncio.run(coroutine)


async def start(batcher, *requests):
    """Start requests, and return their tasks when the batcher has them."""
    tasks = [asyncio.ensure_future(batcher.encode(request)) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_vectors_are_those_of_encode(tmp_path):
    texts = ["the cat", "", "a dog sat on the mat", "long " * 40, "the cat"] * 7
    with Embedder(write_tiny_artifact(tmp_path / "tiny"), truncate_dim=3) as model:

        async def serve():
            batcher = Batcher(BatchedEmbedder(model))
            answers = await asyncio.gather(
                *(batcher.encode(model.tokenize_texts(each)) for each in texts),
                batcher.encode(model.tokenize_texts(texts)),
                batcher.encode([]),
            )
            await batcher.drain()
            return answers

        *single, many, none = run(serve())
        whole = model.encode(texts, truncate_dim=8)
        np.testing.assert_allclose(np.concatenate(single), whole, atol=1e-6)
        np.testing.assert_allclose(many, whole, atol=1e-6)
        assert none.shape == (0, 8)


def test_texts_that_wait_share_a_batch():
    async def serve():
        model = FakeModel(is_open=False)
        batcher = Batcher(model)
        (first,) = await start(batcher, [text(1)])
        await wait_for_start(model)
        others = await start(batcher, *([text(number)] for number in range(2, 9)))
        assert batcher.queue_depth == 8
        model.open.set()
        assert (await first).tolist() == expected(text(1))
        assert [(await other).tolist() for other in others] == [expected(text(number)) for number in range(2, 9)]
        await batcher.drain()
        assert sorted(map(len, model.batches)) == [1, 2, 5]  # a budget of 20 tokens, of which a text has 4
        assert batcher.queue_depth == 0
        assert model.single == [False, True, False]  # all threads only for the last batch of those that wait

    run(serve())


def test_copies_are_encoded_once_in_whatever_request_they_are():
    async def serve():
        model, log = FakeModel(is_open=False), Log()
        batcher = Batcher(model, observer=log)
        (blocker,) = await start(batcher, [text(100)])
        await wait_for_start(model)
        tasks = await start(batcher, [text(1), text(2), text(1)], [text(2)], [text(1), text(1, 5)])
        model.open.set()
        answers = [(await task).tolist() for task in tasks]
        await blocker
        assert answers == [expected(text(1), text(2), text(1)), expected(text(2)), expected(text(1), text(1, 5))]
        assert sorted(first for batch in model.batches for first in batch) == [1, 1, 2, 100]
        assert [report.shared for report in log.requests if report.items > 1] == [1, 1]
        assert sum(report.items for report in log.batches) == 4
        await batcher.drain()

    run(serve())


def test_small_request_that_joins_a_text_of_a_huge_one_moves_it_forward():
    async def serve():
        model = FakeModel(is_open=False, budget=4)
        batcher = Batcher(model)
        (huge,) = await start(batcher, [text(number) for number in range(50)])
        await wait_for_start(model)
        (small,) = await start(batcher, [text(45)])
        model.open.set()
        assert (await small).tolist() == expected(text(45))
        await huge
        await batcher.drain()
        assert model.batches.index([45]) < 4

    run(serve())


def test_long_texts_leave_a_thread_for_short_ones():
    async def serve():
        model = FakeModel(threads=2, budget=10, is_open=False)
        batcher = Batcher(model)
        long = await start(batcher, *([text(number, 30)] for number in range(3)))
        await wait_for_start(model)
        (short,) = await start(batcher, [text(9)])
        await wait_for_start(model)
        assert model.batches == [[0], [9]]
        assert model.single[0]
        model.open.set()
        await asyncio.gather(short, *long)
        await batcher.drain()

    run(serve())


def test_cancelled_request_leaves_the_queue_but_not_what_others_want():
    async def serve():
        model, log = FakeModel(is_open=False), Log()
        batcher = Batcher(model, observer=log)
        (blocker,) = await start(batcher, [text(100)])
        await wait_for_start(model)
        cancelled, other = await start(batcher, [text(1), text(2)], [text(2)])
        cancelled.cancel()
        blocker.cancel()  # its batch runs already
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert batcher.queue_depth == 1
        (late,) = await start(batcher, [text(100)])  # it shares the batch that runs
        model.open.set()
        assert (await other).tolist() == expected(text(2))
        assert (await late).tolist() == expected(text(100))
        await batcher.drain()
        assert model.batches == [[100], [2]]
        assert [report.outcome for report in log.requests] == ["cancelled", "cancelled", "answered", "answered"]

    run(serve())


def test_full_queue_refuses_and_says_when_to_come_again():
    async def serve():
        model, log = FakeModel(is_open=False), Log()
        batcher = Batcher(model, BatcherSettings(queue_size=3, queue_bytes=1000), log)
        waiting = await start(batcher, [text(1), text(2)])
        with pytest.raises(RequestRefused, match="the queue is full: it has 2 inputs of at most 3") as refusal:
            await batcher.encode([text(3), text(4)])
        assert (refusal.value.status, refusal.value.code, refusal.value.retry_after_s) == (429, "queue_full", 1.0)
        with pytest.raises(RequestRefused, match="the queue is full"):
            await batcher.encode([text(3, 200)])
        model.open.set()
        await waiting[0]
        (alone,) = await start(batcher, [text(number) for number in range(9)])  # nothing else waits
        assert len(await alone) == 9
        assert log.refused == ["queue_full", "queue_full"]
        await batcher.drain()

    run(serve())


def test_deadline_ends_a_request_and_drops_its_texts():
    async def serve():
        model, log = FakeModel(is_open=False), Log()
        batcher = Batcher(model, observer=log)
        (blocker,) = await start(batcher, [text(1)])
        await wait_for_start(model)
        with pytest.raises(RequestRefused, match=r"there was no answer within 0\.01 s") as refusal:
            await batcher.encode([text(2)], deadline_s=0.01)
        assert (refusal.value.status, refusal.value.code) == (504, "timeout")
        model.open.set()
        await blocker
        await batcher.drain()
        assert model.batches == [[1]]
        assert [report.outcome for report in log.requests] == ["timeout", "answered"]

    run(serve())


def test_draining_batcher_answers_what_it_has_and_refuses_more():
    async def serve():
        before = set(threading.enumerate())
        model, log = FakeModel(threads=2, is_open=False), Log()
        batcher = Batcher(model, observer=log)
        tasks = await start(batcher, *([text(number)] for number in range(30)))
        draining = asyncio.ensure_future(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(RequestRefused, match="the server is ending") as refusal:
            await batcher.encode([text(1)])
        assert (refusal.value.status, refusal.value.code, log.refused) == (503, "stopping", ["stopping"])
        model.open.set()
        assert [(await task).tolist() for task in tasks] == [expected(text(number)) for number in range(30)]
        await draining
        started = set(threading.enumerate()) - before
        assert not [thread for thread in started if thread.name == "embedder-serve"]

    run(serve())


def test_error_of_a_text_fails_only_its_requests():
    async def serve():
        model, log = FakeModel(is_open=False), Log()
        model.error_of = {3: ArtifactError("the graph failed"), 4: SystemExit()}
        batcher = Batcher(model, observer=log)
        (blocker,) = await start(batcher, [text(100)])
        await wait_for_start(model)
        tasks = await start(batcher, *([text(number)] for number in range(1, 6)), [text(3), text(5), text(6)])
        model.open.set()
        answers = await asyncio.gather(blocker, *tasks, return_exceptions=True)
        assert [answer.tolist() for answer in (answers[1], answers[2], answers[5])] == [
            expected(text(number)) for number in (1, 2, 5)
        ]
        assert isinstance(answers[3], ArtifactError)
        assert isinstance(answers[6], ArtifactError)
        assert isinstance(answers[4], RuntimeError)
        assert "interrupted by SystemExit" in str(answers[4])
        model.error_of = {}
        assert (await batcher.encode([text(3)])).tolist() == expected(text(3))
        assert any(report.failed for report in log.batches)
        await batcher.drain()

    run(serve())


def test_model_that_gives_too_few_vectors_is_an_error():
    async def serve():
        model = FakeModel()
        model.run = lambda texts, **options: np.zeros((0, DIMENSION), np.float32)
        batcher = Batcher(model)
        with pytest.raises(ValueError, match="the model gave 0 vectors for 1 inputs"):
            await batcher.encode([text(1)])
        await batcher.drain()

    run(serve())


def test_thread_that_dies_leaves_no_request_waiting(monkeypatch):
    died = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda args: died.put(args.exc_value))

    async def serve():
        batcher = Batcher(FakeModel(threads=2))
        with monkeypatch.context() as broken:
            broken.setattr(compute, "choose_batch", lambda *arguments: 1 / 0)
            tasks = await start(batcher, [text(1)], [text(2), text(3)])
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, ZeroDivisionError) for answer in answers)
        # The thread ends after the requests have heard of it.
        assert isinstance(await asyncio.to_thread(died.get, timeout=60), ZeroDivisionError)
        assert (await batcher.encode([text(4)])).tolist() == expected(text(4))
        await batcher.drain()

    run(serve())


def test_images_and_texts_share_a_request_and_bad_images_harm_no_other():
    async def serve():
        batcher = Batcher(FakeModel(images=5))
        good, bad, after = await asyncio.gather(
            batcher.encode([text(1), b"image", text(2), b"image"]),
            batcher.encode([text(3), b"bad image", b"image"]),
            batcher.encode([b"bad image"]),
            return_exceptions=True,
        )
        assert good.tolist() == [[1, 4], [5, -1], [2, 4], [5, -1]]
        assert isinstance(bad, ImageError)
        assert bad.reasons == {1: "it is no image"}
        assert after.reasons == {0: "it is no image"}
        await batcher.drain()

    run(serve())


def test_event_loop_makes_the_keys_of_small_requests_alone(monkeypatch):
    threads = []

    def key_of(item):
        threads.append(threading.current_thread())
        return jobs.key_of(item)

    async def serve():
        batcher = Batcher(FakeModel(budget=200_000))
        for length in (1000, 130_000):
            assert (await batcher.encode([text(1, length)])).tolist() == [[1, length]]
        await batcher.drain()

    monkeypatch.setattr("embedder.serve.batcher.key_of", key_of)
    run(serve())
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_model_without_images_refuses_them():
    async def serve():
        with pytest.raises(InputError, match="the model takes no images"):
            await Batcher(FakeModel()).encode([text(1), b"image"])

    run(serve())


def test_cache_keeps_the_vectors_that_were_used_last():
    async def serve():
        model, log = FakeModel(), Log()
        batcher = Batcher(model, BatcherSettings(cache_size=2), log)
        for first in (1, 2, 1, 3, 1, 2):
            assert (await batcher.encode([text(first), text(first)])).tolist() == expected(text(first), text(first))
        assert model.batches == [[1], [2], [3], [2]]
        assert [report.cached for report in log.requests] == [0, 0, 2, 0, 2, 0]
        await batcher.drain()

    run(serve())


def test_answers_may_be_changed_without_harm():
    async def serve():
        batcher = Batcher(FakeModel(), BatcherSettings(cache_size=4))
        for _ in range(3):
            first, second = await asyncio.gather(batcher.encode([text(1)]), batcher.encode([text(1)]))
            assert first.tolist() == second.tolist() == expected(text(1))
            first[:] = 0
        await batcher.drain()

    run(serve())


def test_reports_have_the_figures():
    async def serve():
        log = Log()
        batcher = Batcher(FakeModel(), observer=log)
        await batcher.encode([text(1, 3), text(2, 4, cut=True)])
        (request,) = log.requests
        assert (request.items, request.tokens, request.cut, request.outcome) == (2, 7, 1, "answered")
        (batch,) = log.batches
        assert (batch.items, batch.tokens, batch.failed) == (2, 7, False)
        assert len(batch.queue_s) == 2
        assert min(*batch.queue_s, batch.compute_s) >= 0
        await batcher.drain()

    run(serve())


def test_next_event_loop_finds_an_empty_queue():
    model = FakeModel(is_open=False)
    batcher = Batcher(model)

    async def leave():
        (task,) = await start(batcher, [text(1)])
        await wait_for_start(model)
        return task

    run(leave())
    model.open.set()

    async def serve():
        assert (await batcher.encode([text(1)])).tolist() == expected(text(1))
        assert batcher.queue_depth == 0
        await batcher.drain()

    run(serve())


def test_two_event_loops_at_the_same_time_are_refused():
    model = FakeModel(is_open=False)
    batcher = Batcher(model)

    async def serve():
        (task,) = await start(batcher, [text(1)])
        with pytest.raises(RuntimeError, match="a Batcher has requests of another event loop"):
            await asyncio.to_thread(asyncio.run, batcher.encode([text(2)]))
        model.open.set()
        await task
        await batcher.drain()

    run(serve())


REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 12), max_size=6), st.sampled_from(["wait", "cancel", "hurry"])), max_size=25
)


@settings(max_examples=60)
@given(REQUESTS, st.integers(1, 3), st.sets(st.integers(0, 12), max_size=3), st.sampled_from([0, 3]))
def test_every_request_gets_its_own_vectors_or_is_told_why(requests, threads, failing, cache_size):
    async def serve():
        model, log = FakeModel(threads=threads, is_open=False), Log()
        model.error_of = {first: ArtifactError(f"failed on {first}") for first in failing}
        batcher = Batcher(model, BatcherSettings(queue_size=40, cache_size=cache_size), log)
        tasks = []
        for number, (firsts, fate) in enumerate(requests):
            texts = [text(first, 1 + first) for first in firsts]
            deadline_s = 0.0 if fate == "hurry" else None
            tasks.append(asyncio.ensure_future(batcher.encode(texts, deadline_s=deadline_s)))
            await asyncio.sleep(0)
            if fate == "cancel":
                tasks[number // 2].cancel()
            if number == len(requests) // 2:
                model.open.set()
        model.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.drain()
        for (firsts, _), answer in zip(requests, answers, strict=True):
            if isinstance(answer, ArtifactError):
                assert failing & set(firsts)
            elif not isinstance(answer, RequestRefused | asyncio.CancelledError):
                assert answer.tolist() == expected(*(text(first, 1 + first) for first in firsts))
        assert batcher.queue_depth == 0
        # A task that is cancelled before it begins never reaches the batcher.
        assert len(log.requests) + len(log.refused) <= len(requests)

    run(serve())
