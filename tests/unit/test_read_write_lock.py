"""The lock that many readers or one writer can hold."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from embedder.common.read_write_lock import ReadWriteLock


def test_readers_share_the_lock():
    lock, together = ReadWriteLock(), threading.Barrier(3, timeout=30)

    def read():
        with lock.read():
            together.wait()  # all of them hold the lock

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: read(), range(3)))


def test_a_writer_holds_the_lock_alone():
    lock, inside, seen = ReadWriteLock(), [], []

    def write(number):
        with lock.write():
            inside.append(number)
            seen.append(list(inside))
            inside.remove(number)

    def read(number):
        with lock.read():
            seen.append(list(inside))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: (write if number % 2 else read)(number), range(400)))
    assert all(len(numbers) <= 1 for numbers in seen)
    assert [] in seen
    assert sum(len(numbers) for numbers in seen) == 200


def test_an_error_releases_the_lock():
    lock = ReadWriteLock()
    for hold in (lock.write, lock.read, lock.write):
        with pytest.raises(ZeroDivisionError), hold():
            raise ZeroDivisionError


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_lock_is_free_after_a_fork():
    lock = ReadWriteLock()
    with lock.write():
        child = os.fork()
        if child == 0:
            with lock.write():
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
