"""The inputs of a window: tokenise them, run both sides of the model, and put the results into the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import IMAGE, TEXT, Output
from embedder.common.records import frozen
from embedder.engine.ahead import Started
from embedder.engine.distinct import Places, find_distinct
from embedder.engine.job import Job
from embedder.engine.memory import errors_at
from embedder.engine.text_side import TextRun, TextSide
from embedder.engine.token_table import TokenTable
from embedder.inputs import ImageItem, Item

if TYPE_CHECKING:
    from embedder.engine.image_side import ImageSide


@frozen
class Window:
    """Inputs that are in memory together, without copies. The image side empties `images` as it goes, to free memory.

    Attributes:
        places: where these inputs are in the window with copies.
        tokens: the tokens of the texts. None if there are no texts.
        cut: whether each input is a text that was cut, bool (inputs,). None if the request does not ask.
        images: the sources of the images.
        is_image: whether each of these inputs is an image, bool (inputs,).
    """

    places: Places
    tokens: TokenTable | None
    cut: NDArray[np.bool_] | None
    images: list[Any]
    is_image: NDArray[np.bool_]


@frozen
class WindowResult:
    """What a window gave, with its copies.

    Attributes:
        values: float32 (inputs, *shape of the output). The rows of images that could not be read are zeros.
        reasons: why an image could not be read, by row.
        cut: whether each text was cut, bool (inputs,). None if the request does not ask.
    """

    values: NDArray[np.float32]
    reasons: dict[int, str]
    cut: NDArray[np.bool_] | None


@frozen
class WindowSides:
    """The two sides of a model, as the windows of a request need them.

    Attributes:
        text: returns the text side.
        image: returns the image side.
        outputs: the outputs to return, by modality.
    """

    text: Callable[[], TextSide]
    image: Callable[[], ImageSide]
    outputs: Mapping[str, Output]

    def prepare(self, items: list[Item], find_cut: bool) -> Window:
        """Tokenise the texts of a window. `find_cut` says whether to find those that are cut.

        Raises:
            InputError, ArtifactError: as in `TextSide.tokenize`.
        """
        distinct, places = find_distinct(items)
        texts = [item for item in distinct if not isinstance(item, ImageItem)]
        images = [item.source for item in distinct if isinstance(item, ImageItem)]
        is_image = np.zeros(len(distinct), bool)
        if images:
            is_image[:] = [isinstance(item, ImageItem) for item in distinct]
        tokens = self.text().tokenize(texts) if texts else None
        cut = np.zeros(len(distinct), bool) if find_cut else None
        if cut is not None and tokens is not None:
            cut[np.flatnonzero(~is_image)[self.text().cut_rows(texts, tokens)]] = True
        return Window(places, tokens, cut, images, is_image)

    def start(self, window: Window, job: Job) -> Started[WindowResult]:
        """Start to run a window. Its images run only when its result is wanted."""
        texts = None if window.tokens is None else self.text().start(window.tokens, self.outputs[TEXT], job)

        def finish() -> WindowResult:
            values, reasons = self._finish(window, texts, job)
            job.advance(window.places.copies)
            rows, spread = window.places.rows, window.places.spread
            cut = None if window.cut is None else spread(window.cut)
            return WindowResult(spread(values), {rows[row]: reason for row, reason in reasons.items()}, cut)

        return Started(finish, (lambda: None) if texts is None else texts.cancel)

    def _finish(self, window: Window, texts: TextRun | None, job: Job) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return the outputs of the inputs without copies, and the reasons why images could not be read, by row."""
        rows = window.places.rows
        if not window.images:
            assert texts is not None  # a window has inputs
            with errors_at(rows):
                return texts.finish(), {}
        text_rows, image_rows = (np.flatnonzero(kind).tolist() for kind in (~window.is_image, window.is_image))
        try:
            with errors_at([rows[row] for row in image_rows]):
                vectors, reasons = self.image().run(window.images, self.outputs[IMAGE], job)
        except BaseException:
            if texts is not None:
                texts.cancel()
            raise
        if texts is None:
            return vectors, reasons
        values = np.empty((len(rows), *vectors.shape[1:]), np.float32)
        values[image_rows] = vectors
        with errors_at([rows[row] for row in text_rows]):
            values[text_rows] = texts.finish()
        return values, {image_rows[row]: reason for row, reason in reasons.items()}
