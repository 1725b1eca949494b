"""`Checkpoint`: a checkpoint and its settings, as `checkpoint/read.py` reads them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import EMBED
from embedder.artifact.scores import ScoreSettings

from embedder_export.checkpoint.layers import Layer
from embedder_export.checkpoint.roles import TextRoles
from embedder_export.checkpoint.weights import Floats
from embedder_export.families.family import Family
from embedder_export.families.table import OTHER


@dataclass(frozen=True)
class QuerySide:
    """What a sparse model computes for queries, if it is not what it computes for documents.

    Attributes:
        directory: the directory of its tokenizer.
        weights: the weight of each token id, float32 (token ids,).
    """

    directory: Path
    weights: Floats


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint and its settings.

    Attributes:
        directory: its directory.
        transformer: the directory of its transformer.
        name: its name in the manifest and in messages.
        repository: its id and its commit on the Hub. None for a local directory.
        weights_sha256: SHA-256 of its weights, in hexadecimal.
        layers: the layers after the transformer.
        family: the family of its transformer.
        task: the artifact's task, one of the manifest's.
        image_model: the name of the image model with the same vector space. None if no such model is known.
        max_seq_length: most tokens of a text. None if sentence-transformers' settings do not say it.
        lowercase: whether texts are lower-cased first.
        scores: what the scores of a cross-encoder mean. None for other models.
        roles: how queries and documents of a late-interaction model become tokens. None for other models.
        label_count: number of scores that a cross-encoder gives for a pair. 0 for other models.
        queries: the static weights of queries, of a sparse model that has them. None for other models.
        max_active_dims: how many numbers of a sparse vector are kept, the largest ones. None keeps all.
        similarity: the name of the function that compares its vectors. None if it gives no vectors.
        is_model2vec: whether it has model2vec's layout, without modules.json. Then model2vec is the reference, not
            sentence-transformers.
        prompts: its prompts by name.
        default_prompt_name: the name of the prompt that is used if the caller gives none.
    """

    directory: Path
    transformer: Path
    name: str
    repository: tuple[str, str] | None
    weights_sha256: str
    layers: tuple[Layer, ...]
    family: Family[Any] = OTHER
    task: str = EMBED
    scores: ScoreSettings | None = None
    roles: TextRoles | None = None
    label_count: int = 0
    image_model: str | None = None
    max_seq_length: int | None = None
    lowercase: bool = False
    queries: QuerySide | None = None
    max_active_dims: int | None = None
    similarity: str | None = "cosine"
    is_model2vec: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
