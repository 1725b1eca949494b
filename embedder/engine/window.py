"""The inputs of a window: tokenise them, run both sides of the model, and put the results into the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import IMAGE, TEXT, Output
from embedder.common.records import frozen
from embedder.engine.ahead import Started
from embedder.engine.distinct import Places, find_distinct
from embedder.engine.job import Job
from embedder.engine.memory import errors_at
from embedder.engine.text_side import TextSide
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

    def result(
        self, texts: NDArray[np.float32] | None, images: NDArray[np.float32] | None, reasons: dict[int, str]
    ) -> WindowResult:
        """Put the results of both sides into the order of the window, with its copies.

        Args:
            texts: the values of the texts. None if there are no texts.
            images: the vectors of the images. None if there are no images.
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

    def start(self, windows: list[Window], job: Job) -> Started[list[WindowResult]]:
        """Start to run windows together. Their images run only when the results are wanted.

        The row of an InputMemoryError counts from the first input of the first window.
        """
        tables = [window.tokens for window in windows if window.tokens is not None]
        texts = self.text().start(TokenTable.join(tables), self.outputs[TEXT], job) if tables else None

        def finish() -> list[WindowResult]:
            try:
                images = self._run_images(windows, job)
            except BaseException:
                if texts is not None:
                    texts.cancel()
                raise
            with errors_at(lambda row: _rows(windows, images=False)[row]):
                rest = None if texts is None else texts.finish()
            results = []
            for window, of_images in zip(windows, images, strict=True):
                count = 0 if window.tokens is None else len(window.tokens)
                results.append(window.result(None if rest is None else rest[:count], *of_images))
                rest = None if rest is None else rest[count:]
                job.advance(window.places.copies)
            return results

        return Started(finish, (lambda: None) if texts is None else texts.cancel)

    def _run_images(self, windows: list[Window], job: Job) -> list[tuple[NDArray[np.float32] | None, dict[int, str]]]:
        """Return the vectors of the images of each window, and why images could not be read."""
        found: list[tuple[NDArray[np.float32] | None, dict[int, str]]] = []
        done = 0
        for window in windows:
            count = len(window.images)
            with errors_at(partial(_row_of_image, windows, done)):
                found.append(self.image().run(window.images, self.outputs[IMAGE], job) if count else (None, {}))
            done += count
        return found


def _row_of_image(windows: list[Window], done: int, row: int) -> int:
    """Return the row of an image, which is at `row` among those after the first `done` images."""
    return _rows(windows, images=True)[done + row]


def _rows(windows: list[Window], *, images: bool) -> list[int]:
    """Return the rows of all images or all texts, from the first input of the first window on."""
    rows, start = [], 0
    for window in windows:
        places = np.array(window.places.rows, np.intp)[window.is_image == images]
        rows += (start + places).tolist()
        start += window.places.size
    return rows
