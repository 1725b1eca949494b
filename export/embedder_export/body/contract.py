"""The result of every converter: the transformer as a graph, with the sizes that later stages need."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

# The output's name of a graph that gives token vectors.
TOKEN_VECTORS = "last_hidden_state"
# The output's name of a graph that pools and projects by itself.
POOLED = "features"
# The names of products begin with this if int8 leaves them in float32. They compute only one row for each text, so int8
# would not make them faster, or they score experts, and rounding would change the choice.
ONE_ROW = "one_row/"
# The form of a graph that a native builder wrote.
NATIVE = "native"
# The form of a graph that a native builder wrote for GPUs.
FOR_GPUS = "gpu"


@dataclass(frozen=True)
class TextPadding:
    """How the texts of a model are padded, if all of them are padded to one length.

    Attributes:
        pad_id: the id of the padding token.
        tokens: the length.
        side: the side of the padding, "left" or "right".
        is_masked: whether the tokens leave the padding out of their attention.
    """

    pad_id: int
    tokens: int
    side: str
    is_masked: bool


@dataclass(frozen=True)
class BodyRequest:
    """What the head and the tokenizer need from the graph of a text transformer.

    Attributes:
        token_types: whether the graph takes token type ids.
        first_token_only: whether the graph gives only the first token's vector of each text. Its last layer is then
            much cheaper. Only for families with a `rank_head`.
        fills_up: whether tokens may follow that no token attends to, and whose vectors count.
        max_seq_length: most tokens of a text, as sentence-transformers' settings say. None if they do not say it.
        padding: how texts are padded. None for all families but those that pad each text to one length.
    """

    token_types: bool = False
    first_token_only: bool = False
    fills_up: bool = False
    max_seq_length: int | None = None
    padding: TextPadding | None = None


# What embedders need.
ALL_TOKENS = BodyRequest()


@dataclass(frozen=True)
class BodySizes:
    """Sizes of a transformer.

    Attributes:
        width: length of its output vectors.
        max_position_embeddings: the setting of this name in config.json. None if config.json lacks it.
        usable_positions: rows of its position table that an input can use. None without such a table. For images,
            the positions of one image.
        vocabulary_size: rows of its table of word embeddings. None if it takes no texts.
        image_size: height and width of an image, in pixels. None if it takes no images.
    """

    width: int
    max_position_embeddings: int | None = None
    usable_positions: int | None = None
    vocabulary_size: int | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Body:
    """A transformer as a graph.

    Attributes:
        forms: pairs of a name and a graph. All graphs compute the same. The first is the reference. They are made one
            at a time, so only one is in memory.
        sizes: the sizes that later stages need.
        write_for_gpu: writes a graph in float32 that computes the same, of operators that are fastest on a GPU in fp16.
            None if only a native builder could write it.
        write_dtype: writes the graph in a dtype, where no conversion of the float32 graph is needed. It raises
            GraphError for a dtype that the model cannot have. None: the graph is converted.
    """

    forms: Iterable[tuple[str, ir.Model]]
    sizes: BodySizes
    write_for_gpu: Callable[[], ir.Model] | None = field(default=None, compare=False)
    write_dtype: Callable[[str], ir.Model] | None = field(default=None, compare=False)
