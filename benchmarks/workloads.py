"""Make the texts for compare.py. They come from the data of EMBEDDER_TEST_DATA, or else from this repository."""

import json
from pathlib import Path

from quality import DATA, lines

ROOT = Path(__file__).parents[1]
# The number of texts in each workload. With these, a run of all programs takes about 20 minutes on two cores.
COUNTS = {"short": 600, "long": 100, "mixed": 200, "queries": 100}


def workloads(max_texts):
    """Return the texts of each workload as {workload: texts}. `max_texts` limits each workload, if it is given."""
    return {name: spread(texts, min(COUNTS[name], max_texts or COUNTS[name])) for name, texts in all_texts().items()}


def all_texts():
    """Return all texts of each workload as {workload: texts}."""
    return test_data_texts() if (DATA / "text_mixed_en.jsonl").exists() else repository_texts()


def test_data_texts():
    pairs = [line.split("\t")[1:3] for line in lines(DATA / "sts/stsb-en-dev.tsv")[1:]]
    scifact = DATA / "retrieval/scifact"
    abstracts = map(json.loads, lines(scifact / "corpus.jsonl"))
    return {
        "short": list(dict.fromkeys(sentence for pair in pairs for sentence in pair)),
        "long": [f"{abstract['title']} {abstract['text']}".strip() for abstract in abstracts],
        "mixed": [json.loads(line)["text"] for line in lines(DATA / "text_mixed_en.jsonl")],
        "queries": [json.loads(line)["text"] for line in lines(scifact / "queries.jsonl")],
    }


def repository_texts():
    """Return the sentences of this repository, passages of 12 sentences, and a mixture of both."""
    sentences = parity_texts() + lines(ROOT / "examples/collection.txt")
    passages = [" ".join(sentences[start : start + 12]) for start in range(0, len(sentences), 4)]
    mixed = [text for trio in zip(sentences, sentences[::-1], passages, strict=False) for text in trio]
    return {"short": sentences, "long": passages, "mixed": mixed, "queries": sentences}


def spread(texts, count, first=0):
    """Return `count` texts, evenly spread over all texts from index `first` on. If there are too few, repeat them."""
    texts = texts[first :: max(1, len(texts) // count)]
    return (texts * (count // len(texts) + 1))[:count]


def calibration_texts():
    """Return texts for a program that calibrates its quantisation. They are mixed texts that are not measured."""
    return spread(all_texts()["mixed"], COUNTS["mixed"], first=1)


def agreement_texts():
    """Return the texts for the comparison of vectors: sentences of many kinds, and texts longer than the limit."""
    return parity_texts() + workloads(24)["long"]


def parity_texts():
    return lines(ROOT / "export/embedder_export/samples/parity_sentences.txt")


def described(texts):
    """Return the number of texts, and the range and the median of their lengths in characters, as text."""
    lengths = sorted(map(len, texts))
    return f"{len(texts):,} of {lengths[0]:,} to {lengths[-1]:,} characters, median {lengths[len(lengths) // 2]:,}"
