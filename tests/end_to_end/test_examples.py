"""Each example runs, and finds the expected results."""

import re
import subprocess
import sys
from pathlib import Path

from tests.tiny import write_tiny_ranker

ROOT = Path(__file__).parents[2]
# For each question, a word of the passage that answers it.
ANSWERS = {
    "crying while chopping vegetables": "onion",
    "legs hurt two days after the gym": "soreness",
    "upper part of my heater stays chilly": "radiator",
    "will I lose money if I get promoted": "tax",
    "who invented electronic mail": "Tomlinson",
}


def test_semantic_search(lean_bin, minilm):
    command = [lean_bin / "python", "examples/semantic_search.py"]
    answer = subprocess.run([*command, *ANSWERS], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for question, word in ANSWERS.items():
        assert re.search(rf"^{question}\n  1\. 0\.\d+  .*{word}", answer, re.MULTILINE)
    assert re.search(
        r"^in \d+ ms; encoded 120 passages in \d+ ms; encoded and searched 5 questions in [\d.]+ ms$", answer, re.M
    )
    assert "make export MODEL=cross-encoder/ms-marco-MiniLM-L6-v2" in answer  # there is none on this machine


def run(python, *arguments):
    return subprocess.run([python, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def numbers(pattern, text):
    return [[float(number) for number in found] for found in re.findall(pattern, text)]


def test_scifact_search(lean_bin, minilm, data, tmp_path):
    command = "examples/scifact_search.py", data / "retrieval/scifact", "--index", tmp_path / "index"
    answers = [run(lean_bin / "python", *command, "--documents", 150) for _ in range(2)]
    found = [numbers(r"809 claims in (150) abstracts in [\d.]+ s; nDCG@10 ([\d.]+)\n", answer) for answer in answers]
    # The relevant abstracts of most claims are not among these 150. With all abstracts, nDCG@10 is 0.66.
    assert found[0] == found[1]
    assert found[0][0][1] > 0.1
    assert (tmp_path / "index").stat().st_size > 150 * 384 * 4


def test_retrieve_rerank(lean_bin, minilm, data, tmp_path):
    ranker = write_tiny_ranker(tmp_path / "ranker")
    scifact = data / "retrieval/scifact"
    options = ["--documents", "60", "--claims", "20", "--candidates", "10"]
    answer = run(lean_bin / "python", "examples/retrieve_rerank.py", scifact, "--reranker", ranker, *options)
    assert "20 claims, 60 abstracts, 10 candidates for each claim" in answer
    stages = re.findall(r"^(search|re-rank) +nDCG@10 (0\.\d+)  [\d.]+ ms for each claim$", answer, re.MULTILINE)
    assert [stage for stage, _ in stages] == ["search", "re-rank"]
    assert all(0 < float(score) < 1 for _, score in stages)
    places = re.findall(r"^  \d\. \(was (\d+)\.\) ", answer, re.MULTILINE)
    assert len(set(places)) == 3
    assert set(places) <= {str(place) for place in range(1, 11)}


def test_duplicate_intents(lean_bin, minilm, data):
    answer = run(
        lean_bin / "python", "examples/duplicate_intents.py", data / "clustering/banking77-train.tsv", "--texts", 1000
    )
    shares = numbers(r"(\d+) with a score of at least [\d.]+: ([\d.]+)% have the same intent", answer)
    assert len(shares) == 4
    assert [count for count, _ in shares] == sorted(count for count, _ in shares)
    assert shares[1][1] > 90
    assert shares[1][1] > shares[3][1]


def test_intent_clusters(minilm, data):
    answer = run(sys.executable, "examples/intent_clusters.py", data / "clustering/clinc150-val.tsv", "--texts", 500)
    scores = re.findall(r"V-measure ([\d.]+)", answer)
    assert len(scores) == 3
    assert min(map(float, scores)) > 0.8


def test_bitext(lean_bin, minilm, data):
    answer = run(lean_bin / "python", "examples/bitext.py", data / "bitext/tatoeba/deu-eng.tsv", "--texts", 300)
    found = dict(re.findall(r"(\w+ +\w+) +\d+ pairs, precision ([\d.]+)", answer))
    assert len(found) == 12
    # The model knows no German, but margins and intersection still improve the result.
    assert float(found["ratio     intersection"]) > float(found["ratio     forward"]) > 0.1
    assert float(found["ratio     forward"]) > float(found["absolute  forward"])


def test_quantised_search(lean_bin, minilm, data):
    answer = run(
        lean_bin / "python", "examples/quantised_search.py", data / "clustering/banking77-train.tsv", "--texts", 1000
    )
    recall = [float(share) for share in re.findall(r": ([\d.]+)\n", answer)]
    assert len(recall) == 8
    assert recall[:3] == sorted(recall[:3])
    assert recall[3:6] == sorted(recall[3:6])
    assert recall[2] > 0.95
    assert recall[6] > 0.98
    assert recall[7] > 0.95


def test_vector_database(minilm, tmp_path):
    for _ in range(2):  # the second run opens the database of the first run
        answer = run(sys.executable, "examples/vector_database.py", tmp_path / "database", *ANSWERS)
        assert answer.startswith("120 passages in ")
        for question, word in ANSWERS.items():
            assert re.search(rf"^{question}\n  0\.\d+  .*{word}", answer, re.MULTILINE)


def test_every_example_has_a_test():
    files = [path for folder in ("end_to_end", "clusters") for path in (ROOT / "tests" / folder).glob("*.py")]
    tested = "".join(path.read_text(encoding="utf-8") for path in files)
    assert all(f"examples/{path.name}" in tested for path in (ROOT / "examples").glob("*.py"))
