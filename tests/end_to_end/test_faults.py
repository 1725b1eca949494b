"""A sample of the fault campaign (benchmarks/faults): damaged and hostile files, each in a child process.

A failure prints its number. `make faults FAULTS_OPTIONS="--case NUMBER"` runs it alone.
"""

import sys

import pytest

from tests.processes import run_python

CASES = 12_000
SAMPLES = 6
CASES_PER_SAMPLE = 50


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the campaign watches files with Linux's inotify")
@pytest.mark.parametrize("first", range(SAMPLES))
def test_every_fault_ends_with_an_error_of_embedder_or_with_right_vectors(first):
    numbers = range(first, CASES, CASES // CASES_PER_SAMPLE)
    answer = run_python("-m", "benchmarks.faults", "--case", *numbers)
    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.count("Case(") == CASES_PER_SAMPLE
