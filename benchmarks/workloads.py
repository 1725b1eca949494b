"""The texts that compare.py measures on: real ones where EMBEDDER_TEST_DATA has them, else our own."""

import json
from pathlib import Path

from quality import DATA, lines

ROOT = Path(__file__).parents[1]
# Of each workload, so that a run of all programs takes some twenty minutes on two cores.
COUNTS = {"short": 600, "long": 100, "mixed": 200, "queries": 100}


def workloads(most):
    """{workload: its texts}, at most `most` of each where that is given."""
    found = real() if (DATA / "text_mixed_en.jsonl").exists() else own()
    return {name: spread(texts, min(COUNTS[name], most or COUNTS[name])) for name, texts in found.items()}


def real():
    pairs = [line.split("\t")[1:3] for line in lines(DATA / "sts/stsb-en-dev.tsv")[1:]]
    scifact = DATA / "retrieval/scifact"
    abstracts = map(json.loads, lines(scifact / "corpus.jsonl"))
    return {
        "short": list(dict.fromkeys(sentence for pair in pairs for sentence in pair)),
        "long": [f"{abstract['title']} {abstract['text']}".strip() for abstract in abstracts],
        "mixed": [json.loads(line)["text"] for line in lines(DATA / "text_mixed_en.jsonl")],
        "queries": [json.loads(line)["text"] for line in lines(scifact / "queries.jsonl")],
    }


def own():
    """Sentences, passages of a dozen of them, both in turn, and the sentences again one at a time."""
    sentences = parity_texts() + lines(ROOT / "examples/collection.txt")
    passages = [" ".join(sentences[start : start + 12]) for start in range(0, len(sentences), 4)]
    mixed = [text for trio in zip(sentences, sentences[::-1], passages, strict=False) for text in trio]
    return {"short": sentences, "long": passages, "mixed": mixed, "queries": sentences}


def spread(texts, count, first=0):
    """`count` of the texts, evenly over all of them from `first` on; repeated where there are fewer."""
    texts = texts[first :: max(1, len(texts) // count)]
    return (texts * (count // len(texts) + 1))[:count]


def calibration_texts():
    """What a program that quantises by examples is given: mixed texts that are not measured."""
    found = real() if (DATA / "text_mixed_en.jsonl").exists() else own()
    return spread(found["mixed"], COUNTS["mixed"], first=1)


def agreement_texts():
    """What the programs' vectors are compared on: sentences of many kinds, and texts that are cut."""
    return parity_texts() + workloads(24)["long"]


def parity_texts():
    return lines(ROOT / "export/embedder_export/samples/parity_sentences.txt")


def described(texts):
    """How many, and how long in characters: the shortest, the median and the longest."""
    lengths = sorted(map(len, texts))
    return f"{len(texts):,} of {lengths[0]:,} to {lengths[-1]:,} characters, median {lengths[len(lengths) // 2]:,}"
