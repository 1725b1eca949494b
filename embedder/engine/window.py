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
from embedder.engine.outputs import Values
from embedder.engine.text_side import TextRun, TextSide
from embedder.engine.token_table import TokenTable
from embedder.inputs import ImageItem, Item

if TYPE_CHECKING:
    from embedder.engine.image_side import ImageRun, ImageSide


@frozen
class Window:
    """Inputs that are in memory together, without copies.

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

    def result(self, texts: Values | None, images: NDArray[np.float32] | None, reasons: dict[int, str]) -> WindowResult:
        """Put the results of both sides into the order of the window, with its copies.

        Args:
            texts: the values of the texts. May be None if there are no texts.
            images: the vectors of the images. May be None if there are no images.
            reasons: why images could not be read, by their row among the images.
        """
        if images is None or texts is None:
            values = images if texts is None else texts
            assert values is not None  # a window has inputs
        else:
            values = np.empty((len(self.is_image), *images.shape[1:]), np.float32)
            values[self.is_image], values[~self.is_image] = images, texts
        places = self.places
        image_rows = np.flatnonzero(self.is_image).tolist() if reasons else []
        found = {places.rows[image_rows[row]]: reason for row, reason in reasons.items()}
        return WindowResult(places.spread(values), found, None if self.cut is None else places.spread(self.cut))


@frozen
class WindowResult:
    """What a window gave, with its copies.

    Attributes:
        values: the value of each input, as `engine.outputs` describes them. An unreadable image has zeros.
        reasons: why an image could not be read, by row.
        cut: whether each text was cut, bool (inputs,). None if the request does not ask.
    """

    values: Values
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

    def start(self, windows: list[Window], job: Job) -> Started[list[WindowResult]]:
        """Start to run windows together.

        The row of an InputMemoryError counts from the first input of the first window.
        """
        tables = [window.tokens for window in windows if window.tokens is not None]
        texts = self.text().start(TokenTable.join(tables), self.outputs[TEXT], job) if tables else None
        sources = [source for window in windows for source in window.images]
        for window in windows:
            window.images.clear()  # the image side frees each source when it is used
        images = self.image().start(sources, self.outputs[IMAGE], job) if sources else None

        def cancel() -> None:
            for run in (texts, images):
                if run is not None:
                    run.cancel()

        def finish() -> list[WindowResult]:
            try:
                return _finish(windows, texts, images, job)
            except BaseException:
                cancel()
                raise

        return Started(finish, cancel)


def _finish(windows: list[Window], texts: TextRun | None, images: ImageRun | None, job: Job) -> list[WindowResult]:
    """Wait for both sides, and divide their results among the windows."""
    vectors, values = None, None
    reasons: dict[int, str] = {}
    if images is not None:
        with errors_at(lambda row: _rows(windows, images=True)[row]):
            vectors, reasons = images.finish()
    if texts is not None:
        with errors_at(lambda row: _rows(windows, images=False)[row]):
            values = texts.finish()
    results = []
    text, image = 0, 0
    for window in windows:
        image_count = int(window.is_image.sum())
        text_count = len(window.is_image) - image_count
        results.append(
            window.result(
                None if values is None else values[text : text + text_count],
                None if vectors is None else vectors[image : image + image_count],
                {row - image: reason for row, reason in reasons.items() if image <= row < image + image_count},
            )
        )
        text, image = text + text_count, image + image_count
        job.advance(window.places.copies)
    return results


def _rows(windows: list[Window], *, images: bool) -> list[int]:
    """Return the rows of all images or all texts, from the first input of the first window on."""
    rows, start = [], 0
    for window in windows:
        places = np.array(window.places.rows, np.intp)[window.is_image == images]
        rows += (start + places).tolist()
        start += window.places.size
    return rows
