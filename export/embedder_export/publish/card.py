"""Write the model card of an artifact. It states the facts of the manifest, and the checkpoint's licence."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from embedder.artifact.hub_access import DEFAULT_ORGANISATION, is_repository_id
from embedder.artifact.manifest import Manifest
from embedder.artifact.measurements import Parity, ScoreParity
from embedder.artifact.positions import describe_limit
from embedder.common.files import check_regular

CARD = "README.md"
_MAX_CARD_BYTES = 10_000_000
# What the Hub knows as the id of a licence, such as "apache-2.0".
_LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}", re.ASCII)


@dataclass(frozen=True)
class Licence:
    """The licence that a checkpoint's card states.

    Attributes:
        id: its id on the Hub, such as "apache-2.0". "other" stands for one that the Hub does not know.
        name: its name, if the id is "other".
        link: where its text is, if the id is "other".
    """

    id: str
    name: str | None = None
    link: str | None = None


def read_licence(checkpoint: Path) -> Licence | None:
    """Return the licence that the model card in the directory `checkpoint` states. None if it states none.

    Example:
        >>> read_licence(Path("checkpoints/all-MiniLM-L6-v2")).id  # doctest: +SKIP
        'apache-2.0'
    """
    from huggingface_hub.repocard import metadata_load

    try:
        check_regular(checkpoint / CARD, _MAX_CARD_BYTES)
        facts = metadata_load(checkpoint / CARD)
    except Exception:  # the library raises any class for a damaged card, which then states nothing
        return None
    licence = facts.get("license") if isinstance(facts, dict) else None
    if not isinstance(licence, str) or _LICENCE.fullmatch(licence) is None:
        return None
    if licence != "other":
        return Licence(licence)
    return Licence(licence, _line(facts.get("license_name")), _line(facts.get("license_link")))


def write_card(manifest: Manifest, repository: str, licence: Licence | None) -> str:
    """Return the model card of an artifact.

    Args:
        manifest: the artifact's manifest.
        repository: the id of the repository that holds the artifact.
        licence: the licence that the checkpoint's card states.

    Example:
        >>> print(write_card(manifest, "ann/all-MiniLM-L6-v2", Licence("apache-2.0")))  # doctest: +SKIP
        ---
        license: "apache-2.0"
        ...
    """
    base = _base_model(manifest)
    sections = [
        _front_matter(manifest, base, licence),
        f"# {repository.partition('/')[2]}",
        _origin(manifest, base),
        _usage(manifest, repository),
        _licence_sentence(licence),
        "## How exact it is",
        *_exactness(manifest),
        "## Files",
        _files(manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _base_model(manifest: Manifest) -> str | None:
    """Return the id of the checkpoint's repository. None for a local checkpoint."""
    if manifest.source.revision is None:
        return None
    model = manifest.source.model
    base = model if "/" in model else DEFAULT_ORGANISATION + model
    return base if is_repository_id(base) else None


def _front_matter(manifest: Manifest, base: str | None, licence: Licence | None) -> str:
    facts: dict[str, object] = {}
    if licence is not None:
        facts["license"] = licence.id
        named = {"license_name": licence.name, "license_link": licence.link}
        facts |= {key: value for key, value in named.items() if value is not None}
    if base is not None:
        facts["base_model"] = base
    if manifest.scores is not None:
        task, tag = "text-ranking", "reranker"
    else:
        task, tag = "feature-extraction" if manifest.images is not None else "sentence-similarity", "feature-extraction"
    facts |= {"library_name": "embedder", "pipeline_tag": task, "tags": ["embedder", "onnx", tag]}
    # A value in JSON is also one in YAML.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in facts.items()), "---"])


def _origin(manifest: Manifest, base: str | None) -> str:
    source = f"[{base}](https://huggingface.co/{base})" if base else f"`{_code(manifest.source.model)}`"
    revision = f", revision `{manifest.source.revision}`" if manifest.source.revision else ""
    tool = manifest.tools.get("embedder-export")
    by = f"embedder-export {tool}" if tool else "embedder-export"
    inputs = "Texts" if manifest.scores is None else "Pairs"
    return (
        f"An artifact for [embedder](https://pypi.org/project/embedder-onnx/), which {_purpose(manifest)} with ONNX "
        f"Runtime. {_code(by)} made it from {source}{revision}. The SHA-256 of the weights is "
        f"`{manifest.source.weights_sha256}`. {describe_limit(manifest.tokenizer.max_seq_length, inputs)}."
    )


def _purpose(manifest: Manifest) -> str:
    if manifest.scores is None:
        kinds = "texts and images" if manifest.images is not None else "texts"
        return f"turns {kinds} into vectors of {manifest.dimension} numbers"
    if manifest.label_count == 1:
        return "gives a pair of texts, such as a query and a passage, a score"
    names = ", ".join(f"`{_code(name)}`" for name in manifest.scores.label_names)
    return f"gives a pair of texts {manifest.label_count} scores" + (f" ({names})" if names else "")


def _usage(manifest: Manifest, repository: str) -> str:
    if manifest.scores is not None:
        return "\n".join(
            [
                "```python",
                'from embedder import CrossEncoder  # pip install "embedder-onnx[cpu]"',
                f'model = CrossEncoder("{repository}")',
                'scores = model.predict([("a query", "a passage"), ("a query", "another passage")])',
                "```",
            ]
        )
    extra = "[cpu,image]" if manifest.images is not None else "[cpu]"
    return "\n".join(
        [
            "```python",
            f'from embedder import Embedder  # pip install "embedder-onnx{extra}"',
            f'model = Embedder("{repository}")',
            'vectors = model.encode(["A first sentence.", "A second one."])',
            "```",
        ]
    )


def _licence_sentence(licence: Licence | None) -> str:
    if licence is None:
        return "The card of the checkpoint states no licence. Ask its authors before you use this artifact."
    name = licence.name if licence.id == "other" and licence.name else licence.id
    return (
        f"The card of the checkpoint states the licence `{_code(name)}`. This artifact holds the checkpoint's weights "
        "in another format."
    )


def _exactness(manifest: Manifest) -> list[str]:
    if manifest.scores is not None:
        return [_score_parity_sentence(manifest.scores.parity), *_score_table(manifest)]
    lines = [_parity_sentence("texts", manifest.parity)]
    if manifest.images is not None:
        lines.append(_parity_sentence("images", manifest.images.parity))
    rows = [
        f"| `{graph.file.name}` | {graph.dtype} | {found.mean_cosine:.4f} | {found.min_cosine:.4f} | {found.samples} |"
        for graph in manifest.graphs
        if (found := graph.quality) is not None
    ]
    return lines + _table("| graph | dtype | mean cosine | smallest cosine | samples |", rows)


def _score_table(manifest: Manifest) -> list[str]:
    rows = [
        f"| `{graph.file.name}` | {graph.dtype} | {found.spearman:.5f} | {found.max_difference:.4f} | {found.samples} |"
        for graph in manifest.graphs
        if (found := graph.score_quality) is not None
    ]
    return _table("| graph | dtype | Spearman | largest difference, of the range | pairs |", rows)


def _table(head: str, rows: list[str]) -> list[str]:
    """Return a table of the graphs that are not fp32, and the sentence before it. Without rows there is nothing."""
    line = "|".join(["", *["---"] * (head.count("|") - 1), ""])
    return ["Compared with the fp32 graph of the same export:", "\n".join([head, line, *rows])] if rows else []


def _score_parity_sentence(parity: ScoreParity | None) -> str:
    if parity is None:
        return "The scores were not compared with those of another program."
    return (
        f"The scores of {parity.samples} pairs were compared with those of {_code(parity.reference)}: largest "
        f"difference {parity.max_difference:.1e} of their range, Spearman {parity.spearman:.8f}."
    )


def _parity_sentence(what: str, parity: Parity | None) -> str:
    if parity is None:
        return f"The vectors of {what} were not compared with those of another program."
    return (
        f"The vectors of {parity.samples} {what} were compared with those of {_code(parity.reference)}: smallest "
        f"cosine {parity.min_cosine:.8f}, largest difference {parity.max_difference:.1e}."
    )


def _files(manifest: Manifest) -> str:
    rows = [f"| `{file.name}` | {_size(file.size)} |" for file in manifest.files]
    return "\n".join(["| file | size |", "|---|---|", *rows])


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _code(text: str) -> str:
    """Return `text` on one line and without the characters that end code or begin a link in Markdown."""
    return re.sub(r"[`\[\]<>\s]+", " ", text).strip()


def _line(value: object) -> str | None:
    return " ".join(value.split())[:200] if isinstance(value, str) and value.split() else None
