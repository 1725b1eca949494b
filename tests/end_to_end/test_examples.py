"""Each example runs, and finds what it should."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Question: a word of the passage that answers it.
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


def test_every_example_has_a_test():
    tested = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*examples.py"))
    assert all(f"examples/{path.name}" in tested for path in (ROOT / "examples").glob("*.py"))
