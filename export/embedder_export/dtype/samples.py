"""What the export runs graphs on: real sentences, and images that are drawn here, as none can be shipped.

Half of the sentences and of the images choose and calibrate, the others measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from embedder.artifact.manifest import GRAPH_INPUTS, IMAGE_INPUTS, POOLING_MASK, ImageSettings
from embedder.images.preprocessor import Preprocessor
from tokenizers import Tokenizer

from embedder_export.errors import CheckpointError
from embedder_export.tokenizer.convert import ConvertedTokenizer

# What a line of a text file cannot hold, and what people send all the same.
_BLANK = ("", " ", "\n", "\t \n", "\u0085")
_SPECIAL = "<s> of </s> [CLS] special [SEP] [MASK] tokens <mask> <unk> [UNK] <extra_id_0>"
_ODD = (*_BLANK, _SPECIAL, "two\nlines", "\ufeffmark", "a\0b", "\x7f", "word " * 2000, "x" * 5000, "字" * 1000)
# (texts, tokens): one short query, and batches of about the size that the runtime makes.
_SHAPES = ((1, 16), (16, 32), (2, 256))
# Of a single text.
_MOST_TOKENS = 128
# Images in a call: one, and about as many as the runtime has.
_COUNTS = (1, 4)
_IMAGES = 96

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """Inputs of a graph: batches to time it on, and single texts or images to calibrate it on."""

    batches: list[Feed]
    singles: list[Feed]


def parity_sentences() -> list[str]:
    """Varied real sentences: short and past every limit, in many scripts and cases; and odd strings."""
    return real_sentences() + list(_ODD)


def real_sentences() -> list[str]:
    """Those of `parity_sentences` that people have written."""
    text = files("embedder_export").joinpath("parity_sentences.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


def text_samples(tokenizer: ConvertedTokenizer) -> Samples:
    """Of every other sentence.

    Raises:
        CheckpointError: the tokenizer fails on them.
    """
    backend = Tokenizer.from_str(tokenizer.json)
    generator = np.random.default_rng(0)
    sentences = real_sentences()[::2]
    try:
        running = backend.encode(" ".join(sentences), add_special_tokens=False).ids or [tokenizer.pad_id]
        backend.enable_truncation(tokenizer.max_seq_length)
        single = [encoding.ids[:_MOST_TOKENS] for encoding in backend.encode_batch(sentences) if encoding.ids]
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"the checkpoint's tokenizer fails: {error}") from error
    batches = []
    for rows, tokens in _SHAPES:
        tokens = min(tokens, tokenizer.max_seq_length)
        # Some rows are padded, as those of real batches are.
        lengths = generator.integers((tokens + 1) // 2, tokens, (rows, 1), endpoint=True)
        batches.append(_text_feed(np.resize(running, (rows, tokens)), np.arange(tokens) < lengths))
    singles = [_text_feed(np.array([ids]), np.ones((1, len(ids)))) for ids in single]
    return Samples(batches, singles)


def _text_feed(ids: np.ndarray, mask: np.ndarray) -> Feed:
    mask = mask.astype(np.int64)
    return {GRAPH_INPUTS[0]: ids.astype(np.int64), GRAPH_INPUTS[1]: mask, POOLING_MASK: mask}


def image_samples(images: ImageSettings) -> Samples:
    """Of every other image."""
    pixels = [Preprocessor(images)(image) for image in sample_images()[::2]]
    singles = [{IMAGE_INPUTS[0]: image[None]} for image in pixels]
    return Samples([{IMAGE_INPUTS[0]: np.stack(pixels[:count])} for count in _COUNTS], singles)


@cache
def sample_images() -> list[np.ndarray]:
    """Images of many sizes and kinds, uint8 (height, width, 3), the same ones each time."""
    generator = np.random.default_rng(0)
    images = []
    for index in range(_IMAGES):
        height, width = (int(size) for size in generator.integers(40, 400, 2))
        drawn = _KINDS[index // 2 % len(_KINDS)](generator, height, width)  # one of each pair is for each half
        images.append(np.clip(np.rint(drawn), 0, 255).astype(np.uint8))
    return images


def _clouds(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of which the amplitude falls with the frequency, as that of photographs does (Field, 1987)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(generator.normal(size=(3, height, width)), axes=(1, 2)) / frequency ** generator.uniform(
        1, 1.5
    )
    noise = np.fft.irfft2(spectrum, (height, width), axes=(1, 2))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    mixing = generator.normal(size=(3, 3)) * 0.3 + 1  # colours of a photograph go together
    mixed = np.einsum("ij,jhw->hwi", mixing / np.linalg.norm(mixing, axis=1, keepdims=True), noise)
    return generator.uniform(60, 190, 3) + mixed * generator.uniform(20, 70)


def _shapes(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Discs and rectangles over clouds."""
    image = _clouds(generator, height, width)
    y, x = np.mgrid[:height, :width]
    for _ in range(int(generator.integers(2, 12))):
        top, left = generator.integers(0, height), generator.integers(0, width)
        reach = generator.integers(5, max(6, min(height, width) // 2))
        round_shape = generator.random() < 0.5
        inside = (
            np.hypot(y - top, x - left) < reach if round_shape else (abs(y - top) < reach) & (abs(x - left) < reach)
        )
        image[inside] = generator.uniform(0, 255, 3) + generator.normal(0, generator.uniform(0, 15), (inside.sum(), 3))
    return image


def _gradient(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    corners = generator.uniform(0, 255, (3, 3))
    return corners[0] + across * (corners[1] - corners[0]) + down * (corners[2] - corners[0])


def _stripes(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    slope = generator.normal(size=2)
    on = np.sin((y * slope[0] + x * slope[1]) / generator.uniform(1, 12)) > generator.uniform(-0.5, 0.5)
    return np.where(on[..., None], generator.uniform(0, 255, 3), generator.uniform(0, 255, 3))


def _plain(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    colour = np.rint(generator.random(3)) * 255 if generator.random() < 0.5 else generator.uniform(0, 255, 3)
    return np.broadcast_to(colour, (height, width, 3)) + generator.normal(
        0, generator.choice([0, 3, 60]), (height, width, 3)
    )


_KINDS: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (
    _clouds, _shapes, _gradient, _shapes, _stripes, _clouds, _shapes, _plain,
)  # fmt: skip
