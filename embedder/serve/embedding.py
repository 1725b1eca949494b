"""From the checked inputs of a request to vectors: tokenise, encode in shared batches, truncate, normalise."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder.common.json_values import shown_value
from embedder.common.records import frozen
from embedder.errors import ImageError, InputError
from embedder.inputs import TokenizedText
from embedder.options import EncodeSettings
from embedder.results import truncate
from embedder.serve.errors import RequestRefused
from embedder.serve.images import UNREADABLE, check_images
from embedder.serve.models import ServedCrossEncoder, ServedEmbedder, ServedModel
from embedder.serve.request_record import RequestRecord
from embedder.serve.requests import Item, refuse

# The event loop tokenises up to so many characters itself, and checks so many token ids. A thread for so few takes
# longer than the work.
_MAX_LOOP_CHARACTERS = 4096
_MAX_LOOP_IDS = 1024
_IMAGE = "image"
_T = TypeVar("_T")
# How a message of `Embedder.from_token_ids` names a text.
_TOKEN_IDS = re.compile(r"token_ids\[(\d+)\]")


@frozen
class VectorRequest:
    """What to make of the inputs of a request. It is the same for all interfaces.

    Attributes:
        items: the inputs.
        name_of: returns the name of the input with an index, for messages.
        prompt_name: name of the prompt that is put before each text. None takes the model's default.
        dimensions: how many dimensions of each vector to keep. None keeps all.
        normalize: scale each vector to length 1. None does so only if vectors are truncated that the model normalises.
        truncate: cut texts that are longer than the model reads. False refuses them.
        timeout_s: seconds that the vectors may take.
    """

    items: list[Item]
    name_of: Callable[[int], str]
    prompt_name: str | None
    dimensions: int | None
    normalize: bool | None
    truncate: bool
    timeout_s: float


async def embed(
    served: ServedEmbedder, request: VectorRequest, record: RequestRecord
) -> tuple[NDArray[np.float32], int]:
    """Return the vectors of a request, float32 (n, dimensions), and the number of tokens that the model has read.

    Args:
        served: the model.
        request: the checked request.
        record: takes the model, the number of texts, and the number of tokens.

    Raises:
        RequestRefused: 400, the model has no such prompt, takes no images or has fewer dimensions, or an input cannot
            be read; 422, a text is too long and should not be cut; and as in `Batcher.encode`.
    """
    record.model, record.texts = served.name, len(request.items)
    _check_options(served, request)
    items, tokens = await _read_items(served, request)
    record.tokens = tokens
    try:
        vectors = await served.batcher.encode(items, deadline_s=request.timeout_s)
    except ImageError as error:
        index, reason = next(iter(error.reasons.items()))
        name = request.name_of(index)
        raise refuse(f"{name}: {reason}", name, code=UNREADABLE) from error
    return _finish(served, request, vectors), tokens


def check_prompt(served: ServedEmbedder, prompt_name: str | None) -> None:
    """Raise RequestRefused, 400, if a request names a prompt that the model does not have.

    Example:
        >>> check_prompt(models.embedder(None), "query")  # doctest: +SKIP
    """
    if prompt_name is not None and prompt_name not in (prompts := served.model.prompts):
        raise refuse(
            f"{served.name} has no prompt_name {shown_value(prompt_name)}: it has {', '.join(prompts)}", "prompt_name"
        )


def normalizes(served: ServedEmbedder) -> bool:
    """Return whether the model itself scales its vectors to length 1.

    Example:
        >>> normalizes(models.embedder(None))  # doctest: +SKIP
        True
    """
    head = served.model.manifest.head
    return head is not None and head.layers[-1:] == ("normalize",)


def _check_options(served: ServedEmbedder, request: VectorRequest) -> None:
    dimension = served.model.manifest.dimension
    if request.dimensions is not None and request.dimensions > dimension:
        raise refuse(
            f"dimensions should be at most {dimension}, which is what {served.name} has, not {request.dimensions}",
            "dimensions",
        )
    check_prompt(served, request.prompt_name)


async def _read_items(served: ServedEmbedder, request: VectorRequest) -> tuple[Sequence[TokenizedText | bytes], int]:
    """Return the inputs as `Batcher.encode` takes them, and the number of their tokens."""
    texts = [item for item in request.items if type(item) is str]
    read = await _tokenize(served, texts, request.prompt_name)
    if len(texts) == len(request.items):
        items: Sequence[TokenizedText | bytes] = read
    else:
        following = iter(read)
        others = await _read_others(served, request)
        items = [next(following) if type(item) is str else others[row] for row, item in enumerate(request.items)]
    if not request.truncate:
        refuse_cut(served, request.name_of, items)
    return items, sum(len(item) for item in items if isinstance(item, TokenizedText))


async def _tokenize(served: ServedEmbedder, texts: list[str], prompt_name: str | None) -> list[TokenizedText]:
    return await tokenize_in_time(
        sum(map(len, texts)), lambda: served.model.tokenize_texts(texts, prompt_name=prompt_name)
    )


async def tokenize_in_time(characters: int, tokenize: Callable[[], _T]) -> _T:
    """Return what `tokenize` returns. It runs in a thread if the event loop would stop too long for other requests.

    Args:
        characters: number of characters of the texts.
        tokenize: tokenises the texts.

    Example:
        >>> asyncio.run(tokenize_in_time(3, lambda: [101, 102]))
        [101, 102]
    """
    return tokenize() if characters <= _MAX_LOOP_CHARACTERS else await asyncio.to_thread(tokenize)


async def _read_others(served: ServedEmbedder, request: VectorRequest) -> dict[int, TokenizedText | bytes]:
    """Return the inputs that are not texts, by their index: checked images, and checked token ids."""
    images = {row: item for row, item in enumerate(request.items) if isinstance(item, bytes)}
    if images:
        if _IMAGE not in served.model.modalities:
            raise refuse(f"{served.name} takes no images", request.name_of(next(iter(images))))
        await check_images({request.name_of(row): data for row, data in images.items()})
    token_ids = {row: item for row, item in enumerate(request.items) if isinstance(item, list)}
    if sum(map(len, token_ids.values())) <= _MAX_LOOP_IDS:
        read = _read_token_ids(served, request, token_ids)
    else:
        read = await asyncio.to_thread(_read_token_ids, served, request, token_ids)
    return {**images, **read}


def _read_token_ids(
    served: ServedEmbedder, request: VectorRequest, token_ids: dict[int, list[Any]]
) -> dict[int, TokenizedText]:
    try:
        return dict(zip(token_ids, served.model.from_token_ids(token_ids.values()), strict=True))
    except InputError as error:
        message, name = str(error), "input"
        if found := _TOKEN_IDS.match(message):
            name = request.name_of(list(token_ids)[int(found[1])])
            message = name + message[found.end() :]
        raise refuse(message, name, code="wrong_token_ids") from error


def refuse_cut(served: ServedModel, name_of: Callable[[int], str], items: Sequence[TokenizedText | bytes]) -> None:
    """Raise RequestRefused, 422, if the model does not read all of a text or a pair.

    Example:
        >>> refuse_cut(served, "inputs[{}]".format, served.model.tokenize_texts(["a text"]))  # doctest: +SKIP
    """
    for index, item in enumerate(items):
        if isinstance(item, TokenizedText) and item.cut:
            limit, name = served.model.max_seq_length, name_of(index)
            subject = f"{name}: the pair" if isinstance(served, ServedCrossEncoder) else name
            raise RequestRefused(
                422,
                "text_too_long",
                f"{subject} has more than {limit:,} tokens, which is what {served.name} reads. Split the text, or send "
                '"truncate": true to have it cut',
                param=name,
            )


def _finish(served: ServedEmbedder, request: VectorRequest, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    dimension = request.dimensions or vectors.shape[1]
    if normalizes(served):
        # Whole vectors have length 1 already. To scale them again could change their last digits.
        normalize = dimension < vectors.shape[1] and request.normalize is not False
    else:
        normalize = request.normalize is True
    return truncate(vectors, dimension, EncodeSettings(normalize_embeddings=normalize))
