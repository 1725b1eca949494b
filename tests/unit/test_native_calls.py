"""Daemon threads that still encode when the interpreter ends do not abort the process."""

import os
import threading
from itertools import pairwise

import onnx
import pytest

from embedder.common.native_calls import NativeCalls
from tests.processes import call_in_fork, run_python

# A call of the graph takes about a millisecond, so that one ends while the interpreter ends.
ENDLESS = """
import sys
import threading
from pathlib import Path
import numpy as np
from embedder.backends.sessions import open_session, run_session, session_options

graph, began = Path(sys.argv[1]).read_bytes(), threading.Event()

def work():
    session = open_session(graph, "CPUExecutionProvider", session_options(1))
    x = np.ones((200, 200), np.float32)
    while True:
        began.set()
        run_session(session, {"x": x}, ["y"])

import embedder.common.executor  # as every model does
threading.Thread(target=work, daemon=True).start()
began.wait()
"""


def test_a_daemon_thread_that_still_computes_at_exit(tmp_path):
    kind = onnx.TensorProto.FLOAT
    names = ["x", *(f"x{number}" for number in range(9)), "y"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", [first, "x"], [last]) for first, last in pairwise(names)],
        "powers",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", "n"])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", "n"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "powers.onnx"
    onnx.save(model, path)
    process = run_python("-W", "error", "-c", ENDLESS, path)
    assert (process.returncode, process.stderr, process.stdout) == (0, "", "")


def test_end_waits_for_the_running_calls_of_other_threads():
    calls, inside, may_leave = NativeCalls(), threading.Event(), threading.Event()
    done = []

    def call():
        with calls:
            inside.set()
            may_leave.wait(60)
            done.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(60)
    calls.end(timeout_s=0.0)
    assert not done
    may_leave.set()
    calls.end(timeout_s=60)
    assert done
    thread.join(60)


def test_new_calls_of_other_threads_wait_for_the_end_of_the_process_but_not_for_ever():
    calls, order = NativeCalls(), []
    calls.end(timeout_s=0.05)
    with calls:
        order.append("the thread that ends the process")

    def call():
        with calls:
            order.append("another thread")

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60)
    assert order == ["the thread that ends the process", "another thread"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_calls_of_its_parent():
    calls = NativeCalls()
    with calls:
        assert call_in_fork(lambda: calls._running) == []
