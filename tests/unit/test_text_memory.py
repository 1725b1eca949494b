"""Long texts for which the machine has too little memory: an error before the work, not a process that ends."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from embedder import CrossEncoder, DeviceMemoryError, Embedder, EncoderPool
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.artifact.text_memory import TextMemory, text_memory, with_text_memory
from embedder.backends import memory_room
from embedder.backends.memory_room import MemoryRoom, MemoryShortageError
from embedder.common import control_groups, free_memory
from embedder.common.free_memory import free_memory_bytes
from tests.tiny import write_tiny_artifact, write_tiny_ranker

GB = 1_000_000_000


def interrupt():
    raise KeyboardInterrupt


# Texts of the tiny models have at most 16 tokens.
MEMORY = TextMemory(GB // 12, 0)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GB of free memory: a function that writes the files of its control groups."""
    monkeypatch.setattr(control_groups, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:  16000000 kB\nMemAvailable:  8000000 kB\nHugePages_Total:  0\n")

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


class TestFreeMemory:
    def test_without_control_groups(self, machine):
        assert free_memory_bytes() == 8_000_000 * 1024

    def test_cached_files_that_nobody_uses_are_free(self, machine):
        group = {"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 900\ninactive_file 400\n"}
        machine({"membership": "0::/a\n"} | {f"cgroup/a/{name}": text for name, text in group.items()})
        assert free_memory_bytes() == 900

    @pytest.mark.parametrize(("mapped", "free"), [(0, 1200), (250, 950), (900, 900)])
    def test_cached_files_in_use_are_free_unless_they_are_mapped(self, machine, mapped, free):
        stat = f"anon 900\ninactive_file 400\nactive_file 300\nfile_mapped {mapped}\n"
        group = {"memory.max": "3000", "memory.current": "2500", "memory.stat": stat}
        machine({"membership": "0::/a\n"} | {f"cgroup/a/{name}": text for name, text in group.items()})
        assert free_memory_bytes() == free

    def test_group_above_may_have_less(self, machine):
        machine(
            {
                "membership": "0::/a/b\n",
                "cgroup/a/b/memory.max": "max\n",
                "cgroup/a/b/memory.current": "10",
                "cgroup/a/memory.max": "5000",
                "cgroup/a/memory.current": "4000",
            }
        )
        assert free_memory_bytes() == 1000

    def test_control_groups_of_version_1(self, machine):
        machine(
            {
                "membership": "5:cpu:/x\n4:memory:/x\n",
                "cgroup/memory/x/memory.limit_in_bytes": "7000",
                "cgroup/memory/x/memory.usage_in_bytes": "6500",
                "cgroup/memory/x/memory.stat": "total_inactive_file 100",
                "cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "cgroup/memory/memory.usage_in_bytes": "6500",
            }
        )
        assert free_memory_bytes() == 600

    def test_more_in_use_than_the_limit(self, machine):
        group = {"cgroup/memory.max": "3000", "cgroup/memory.current": "3500"}
        machine({"membership": "0::/of/the/host\n"} | group)
        assert free_memory_bytes() == 0

    def test_other_systems_do_not_say(self, monkeypatch, tmp_path):
        monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "nowhere")
        assert free_memory_bytes() is None


class TestManifest:
    def test_written_and_read(self, tmp_path):
        manifest = read_manifest(write_tiny_artifact(tmp_path / "model"))
        (graph,) = manifest.graphs
        write_manifest(with_text_memory(manifest, {"model.onnx": TextMemory(86_400, 2)}), tmp_path / "model")
        assert text_memory(read_manifest(tmp_path / "model"), graph) == TextMemory(86_400, 2)
        assert with_text_memory(manifest, {}) is manifest

    @pytest.mark.parametrize(
        "entry",
        [
            None,
            3,
            {},
            {"model.onnx": None},
            {"model.onnx": {"bytes_per_token": -1, "bytes_per_pair": 0}},
            {"model.onnx": {"bytes_per_token": 1.5, "bytes_per_pair": 0}},
            {"model.onnx": {"bytes_per_token": 1}},
            {"other.onnx": {"bytes_per_token": 1, "bytes_per_pair": 0}},
        ],
    )
    def test_another_form_says_nothing(self, tmp_path, entry):
        """`extra` may hold anything."""
        manifest = read_manifest(write_tiny_artifact(tmp_path / "model"))
        assert text_memory(replace(manifest, extra={"text_memory": entry}), manifest.graphs[0]) is None


class TestMemoryRoom:
    def test_second_call_waits_for_the_first(self, monkeypatch):
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: 3 * GB)
        room, order = MemoryRoom(), []
        with room.reserved(2 * GB):
            started = threading.Event()

            def second():
                started.set()
                with room.reserved(2 * GB):
                    order.append("second")

            thread = threading.Thread(target=second)
            thread.start()
            started.wait()
            order.append("first")
        thread.join()
        assert order == ["first", "second"]

    def test_the_call_that_waits_longest_is_first(self, waiting_room):
        """Otherwise a stream of shorter texts could keep a long one waiting for ever."""
        room, order, start = waiting_room
        with room.reserved(2 * GB):
            threads = [start(3 * GB, "long"), start(GB // 2, "short")]  # the short text would fit at once
        for thread in threads:
            thread.join()
        assert order == ["long", "short"]

    def test_an_interrupted_call_leaves_its_place(self, waiting_room, monkeypatch):
        room, order, start = waiting_room
        with room.reserved(2 * GB):
            with monkeypatch.context() as patch:
                patch.setattr(room._changed, "wait", interrupt)
                with pytest.raises(KeyboardInterrupt), room.reserved(3 * GB):
                    raise AssertionError
            start(GB // 2, "short").join()
        assert order == ["short"]
        with room.reserved(3 * GB):
            pass

    @pytest.fixture
    def waiting_room(self, monkeypatch):
        """A room of 3 GB, a list of names, and a function that starts a call and returns when it waits or has ended."""
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: 3 * GB)
        room, order = MemoryRoom(), []
        changed = threading.Event()
        wait = room._changed.wait

        def wait_and_tell():
            changed.set()
            wait()

        monkeypatch.setattr(room._changed, "wait", wait_and_tell)

        def start(needed_bytes, name):
            def call():
                with room.reserved(needed_bytes):
                    order.append(name)
                changed.set()

            changed.clear()
            thread = threading.Thread(target=call)
            thread.start()
            changed.wait()
            return thread

        return room, order, start

    def test_memory_that_nobody_can_give_back(self, monkeypatch):
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: 3 * GB)
        room = MemoryRoom()
        message = r"about 3\.5 GB are needed, and 3\.0 GB are free"
        with pytest.raises(MemoryShortageError, match=message), room.reserved(int(3.5 * GB)):
            raise AssertionError
        with room.reserved(3 * GB):
            pass

    def test_the_numbers_of_the_message_differ(self):
        assert str(MemoryShortageError(610_000_000, 590_000_000)) == "about 0.7 GB are needed, and 0.5 GB are free"

    def test_a_failed_call_gives_its_memory_back(self, monkeypatch):
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: 3 * GB)
        room = MemoryRoom()
        with pytest.raises(KeyError), room.reserved(2 * GB):
            raise KeyError
        with room.reserved(3 * GB):
            pass

    def test_system_that_does_not_say_what_is_free(self, monkeypatch):
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: None)
        with MemoryRoom().reserved(10**18):
            pass

    def test_small_calls_do_not_look(self, monkeypatch):
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: 0)
        with MemoryRoom().reserved(1_000_000):
            pass


class TestModels:
    @pytest.fixture
    def short_of_memory(self, monkeypatch):
        monkeypatch.setattr(memory_room, "free_memory_bytes", lambda: GB)

    @pytest.fixture
    def path(self, tmp_path):
        return self.with_memory(write_tiny_artifact(tmp_path / "model"))

    def with_memory(self, directory):
        write_manifest(with_text_memory(read_manifest(directory), {"model.onnx": MEMORY}), directory)
        return directory

    @pytest.mark.parametrize("count", [1, 3, 2000])
    def test_the_error_names_the_text(self, path, short_of_memory, count):
        texts = ["a cat"] * count
        texts[-1] = "the cat sits on the mat and the dog sits on the cat"
        message = (
            rf"input {count - 1} \(counted from 0\) has \d\d tokens, and this machine has too little free memory for "
            r"them: about 1\.\d GB are needed, and 1\.0 GB are free\. End other programs, cut the text into chunks, or "
            "load the model with a smaller max_seq_length"
        )
        model = Embedder(path)
        with pytest.raises(DeviceMemoryError, match=message):
            model.encode(texts if count > 1 else texts[0])
        with pytest.raises(DeviceMemoryError, match=message):
            model.encode_batch(model.tokenize_texts(texts))

    def test_shorter_texts_have_their_vectors(self, path, short_of_memory):
        texts = ["a cat", "a dog", "the cat sits"] * 10
        expected = Embedder(path, max_seq_length=16).encode(texts)
        np.testing.assert_array_equal(Embedder(path, max_seq_length=8).encode(texts), expected)

    def test_batches_that_do_not_fit_together_run_one_by_one(self, path, short_of_memory):
        model = Embedder(path, threads=4)
        texts = [f"the cat sits {word}" for word in ("a", "the", "cat", "dog", "mat", "on")]
        assert model.encode(texts, batch_size=1).shape == (6, model.dimension)

    def test_a_short_text_does_not_wait_with_a_long_one(self, path, short_of_memory, monkeypatch):
        """The long text waits for memory, and holds no thread meanwhile."""
        memory = TextMemory(GB // 25, 0)
        write_manifest(with_text_memory(read_manifest(path), {"model.onnx": memory}), path)
        model, waits, vectors = Embedder(path, threads=1), threading.Event(), []
        room = memory_room.PROCESS_ROOM
        wait = room._changed.wait
        monkeypatch.setattr(room._changed, "wait", lambda: (waits.set(), wait()))
        with room.reserved(GB // 2):  # as another model may do
            text = "the cat sits on the mat and the dog sits on the cat"
            thread = threading.Thread(target=lambda: vectors.append(model.encode(text)))
            thread.start()
            waits.wait()
            assert model.encode("").shape == (model.dimension,)
            assert not vectors
        thread.join()
        assert len(vectors) == 1

    def test_a_batch_that_does_not_fit_is_halved(self, path, short_of_memory):
        model = Embedder(path)
        tokens = model.tokenize_texts(["the cat sits"] * 7 + ["a dog"])
        np.testing.assert_array_equal(model.encode_batch(tokens), model.encode(["the cat sits"] * 7 + ["a dog"]))

    def test_a_pool_names_the_chunk(self, tmp_path):
        memory = TextMemory(2**40 - 1, 0)
        path = write_tiny_artifact(tmp_path / "model")
        write_manifest(with_text_memory(read_manifest(path), {"model.onnx": memory}), path)
        message = r"^of 2 inputs from inputs\[0\] on: input 0 \(counted from 0\) has \d tokens, and this machine"
        with EncoderPool(path, workers=1, providers="cpu") as pool, pytest.raises(DeviceMemoryError, match=message):
            pool.encode(["a cat"] * 4, chunk_size=2)

    def test_pairs(self, tmp_path, short_of_memory):
        model = CrossEncoder(self.with_memory(write_tiny_ranker(tmp_path / "ranker")))
        with pytest.raises(DeviceMemoryError, match=r"input 1 \(counted from 0\) has \d\d tokens, and this machine"):
            model.predict([("a cat", "a dog"), ("the cat sits on the mat", "the dog sits on the cat")])
