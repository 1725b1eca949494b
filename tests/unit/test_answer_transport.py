"""The head of an answer and its body leave together."""

from types import SimpleNamespace

import pytest

from embedder.serve.answer_transport import AnswerTransport


class Written(list):
    """A transport that keeps what is written."""

    write = list.append
    is_closed = False

    def close(self):
        self.is_closed = True

    def is_closing(self):
        return self.is_closed


@pytest.fixture
def written():
    return Written()


@pytest.fixture
def cycle():
    return SimpleNamespace(scope={"method": "POST"}, response_started=False)


def test_head_and_body_are_one_packet(written, cycle):
    answer = AnswerTransport(written, cycle)
    answer.write(b"100 Continue")
    assert written == [b"100 Continue"]
    cycle.response_started = True
    for part in (b"head ", b"body", b"more"):
        answer.write(part)
    assert written == [b"100 Continue", b"head body", b"more"]


def test_large_body_is_not_copied(written, cycle):
    cycle.response_started = True
    body = bytes(100_000)
    answer = AnswerTransport(written, cycle)
    answer.write(b"head")
    answer.write(body)
    assert written[0] == b"head"
    assert written[1] is body


def test_head_alone_is_written(written, cycle):
    cycle.scope["method"] = "HEAD"
    cycle.response_started = True
    AnswerTransport(written, cycle).write(b"head")
    assert written == [b"head"]


def test_head_is_written_before_the_end(written, cycle):
    cycle.response_started = True
    answer = AnswerTransport(written, cycle)
    answer.write(b"head")
    assert not answer.is_closing()
    answer.close()
    assert written == [b"head"]
    assert answer.is_closing()
