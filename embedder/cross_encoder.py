"""`CrossEncoder`, the public class that scores pairs of texts, such as a query and a passage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np

from embedder.activations import apply_activation
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import RANK
from embedder.artifact.scores import ScoreSettings
from embedder.common.checks import check_count, check_flag
from embedder.common.keywords import refuse_keywords
from embedder.encoding import encode_batch, encode_items
from embedder.engine.engine import Block
from embedder.errors import InputError
from embedder.hints import CROSS_ENCODER_ATTRIBUTE_HINTS, CROSS_ENCODER_HINTS
from embedder.inputs import Pair, TokenizedText, check_documents, check_pairs, each_pair, is_pair
from embedder.loaded_model import LoadedModel
from embedder.options import OPTIONS_OF_PREDICT, EncodeSettings, LoadSettings, PredictOptions, PredictSettings
from embedder.ranked import RankedDocument, rank_documents
from embedder.results import CutTexts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedder.backends import Backend

_CUT_HINT = "Cut long texts into chunks first, by the chunks method of an Embedder"

# A query and a passage: two texts.
TextPair = Sequence[str]


class CrossEncoder(LoadedModel):
    """A model that scores pairs of texts, such as a query and a passage. Safe to call from many threads at once.

    Pickle stores the path and the options. Unpickling loads the model again. A `with` statement releases the memory and
    the threads at its end. The attributes cannot be set.

    Example:
        >>> model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.rank("Where is the cat?", ["It rains.", "The cat is outside."], top_k=1)  # doctest: +SKIP
        [{'corpus_id': 1, 'score': 8.4}]
    """

    _instead: ClassVar[Mapping[str, str]] = CROSS_ENCODER_ATTRIBUTE_HINTS
    _task = RANK

    @refuse_keywords("CrossEncoder", CROSS_ENCODER_HINTS | OPTIONS_OF_PREDICT)
    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        provider: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_seq_length: int | None = None,
        activation_fn: str | None = None,
        verify: bool = True,
        provider_options: Mapping[str, str | int] | None = None,
        backend: Backend | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load an exported cross-encoder. A model of the Hub is fetched at its first use.

        Args:
            model: as in `Embedder`: a path, or a name such as "cross-encoder/ms-marco-MiniLM-L6-v2".
            provider: as in `Embedder`.
            dtype: as in `Embedder`.
            threads: as in `Embedder`.
            max_seq_length: most tokens of both texts of a pair together that the model reads, special tokens included.
                Tokens are taken from the end of the longer text. None takes the model's own limit. A greater one is
                possible where the manifest says that the graph can read more.
            activation_fn: the function that scores go through: "identity", "sigmoid" or "softmax". None takes the
                model's own.
            verify: as in `Embedder`.
            provider_options: as in `Embedder`.
            backend: as in `Embedder`.
            revision: as in `Embedder`.
            token: as in `Embedder`.
            local_files_only: as in `Embedder`.

        Raises:
            InputError: the artifact has no graph of this dtype, or an option has a wrong type or is out of range.
            ModelNotFoundError, ArtifactError, ProviderError, DependencyError: as in `Embedder`.
        """
        PredictSettings(activation_fn=activation_fn)  # checks the name
        settings = LoadSettings(provider, dtype, threads, None, verify, max_seq_length, provider_options)
        self._activation_fn = activation_fn
        self._load(model, HubAccess(revision, token, local_files_only), settings, backend)
        self._check_softmax(activation_fn)

    def _load_options(self) -> dict[str, Any]:
        options = self._settings.options() | {"activation_fn": self._activation_fn}
        del options["truncate_dim"]
        return options

    def __repr__(self) -> str:
        return (
            f"CrossEncoder({self.manifest.source.model!r}, labels={self.label_count}, "
            f"max_seq_length={self.max_seq_length}, dtype={self.dtype!r}, provider={self.device!r})"
        )

    @property
    def label_count(self) -> int:
        """Number of scores that a pair gets, one for each label."""
        return self.manifest.label_count

    @property
    def label_names(self) -> tuple[str, ...]:
        """A name for each label, in the order of the scores. Empty if the checkpoint names none."""
        return self._scores.label_names

    @property
    def activation_fn(self) -> str:
        """The function that scores go through by default: "identity", "sigmoid" or "softmax"."""
        return self._activation_fn or self._scores.activation_fn

    @property
    def _scores(self) -> ScoreSettings:
        scores = self.manifest.scores
        assert scores is not None  # the manifest of a model for the task "rank" has them
        return scores

    def predict(
        self, pairs: TextPair | Iterable[TextPair], **options: Unpack[PredictOptions]
    ) -> NDArray[np.float32] | np.float32:
        """Return the scores of one pair of texts or of many. A score does not depend on the other pairs.

        Args:
            pairs: one pair, which is a list or tuple of two strings; or many pairs.
            **options: see `PredictOptions`.

        Returns:
            float32 (n,) for n pairs if the model has one label, otherwise (n, labels), in the caller's order. For one
            pair: a float32, or (labels,).

        Raises:
            InputError: a pair is not two strings, or is not valid Unicode (the message says which one); or an option is
                unknown or out of range. Nothing has been scored.

        Example:
            >>> model.predict([("Where is the cat?", "The cat is outside.")]).shape  # doctest: +SKIP
            (1,)
        """
        scores = self._predict(check_pairs(pairs), self._settings_of(options), "pairs")
        result: NDArray[np.float32] = scores[0] if is_pair(pairs) else scores
        return result

    def predict_iter(
        self, pairs: Iterable[TextPair], **options: Unpack[PredictOptions]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the scores of a stream of pairs, in bounded memory.

        Each array has the scores of at most 1,024 pairs. The next 1,024 pairs are read ahead, on a GPU some 8,000.

        Args:
            pairs: many pairs.
            **options: see `PredictOptions`.

        Yields:
            float32 (k,), or (k, labels) if the model has several labels, in the order of `pairs`. k may differ between
            arrays.

        Raises:
            InputError: as in `predict`. The call itself raises it for an option, the iterator for a pair.

        Example:
            >>> for scores in model.predict_iter(read_pairs()):  # doctest: +SKIP
            ...     store(scores)
        """
        settings = self._settings_of(options)
        if is_pair(pairs):
            raise InputError("predict_iter takes many pairs. For one pair, call predict")
        items = each_pair(pairs)
        blocks = self._engine.run(items, settings.encode_settings, len(pairs) if isinstance(pairs, Sized) else None)
        return self._scores_of(blocks, settings)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Unpack[PredictOptions],
    ) -> list[RankedDocument]:
        """Return the documents by their score with a query, best first. Equal scores keep the caller's order.

        Args:
            query: the first text of each pair.
            documents: the second texts.
            top_k: how many documents to return. None returns all.
            return_documents: whether the results have the documents, under "text".
            **options: see `PredictOptions`.

        Raises:
            InputError: the model has several labels; or the query or a document is not a string or is not valid Unicode
                (the message says which one); or an option is unknown or out of range.

        Example:
            >>> model.rank("Where is the cat?", ["It rains.", "The cat is outside."])[0]["corpus_id"]  # doctest: +SKIP
            1
        """
        settings = self._settings_of(options, "rank", ("top_k", "return_documents"))
        check_count("top_k", top_k)
        check_flag("return_documents", return_documents)
        if self.label_count != 1:
            raise InputError(
                f"rank needs a model with one label, and this one has {self.label_count}: call predict, and sort by "
                "the scores of the label that counts"
            )
        pairs = check_documents(query, documents)
        scores = self._predict(pairs, settings, "documents")
        return rank_documents(scores, [pair.second for pair in pairs], top_k, return_documents=return_documents)

    def tokenize_pairs(
        self, pairs: TextPair | Iterable[TextPair], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> list[TokenizedText]:
        """Return pairs as the model reads them, for `predict_batch`. `predict` reads them in the same way.

        Args:
            pairs: one pair or many pairs.
            prompt_name: as in `predict`.
            prompt: as in `predict`.

        Raises:
            InputError: as in `predict`.

        Example:
            >>> model.tokenize_pairs([("a cat", "a dog")])[0].ids  # doctest: +SKIP
            array([ 101, 1037, 4937,  102, 1037, 3899,  102])
        """
        settings = EncodeSettings(prompt_name=prompt_name, prompt=prompt)
        return self._engine.read_texts(check_pairs(pairs), settings)

    def predict_batch(self, pairs: Sequence[TokenizedText], *, single_thread: bool = False) -> NDArray[np.float32]:
        """Return the raw scores of one batch, computed in the calling thread. For programs that make their own batches.

        `embedder.activations.apply_activation` turns them into the scores of `predict`. The pairs run in one call of
        the graph, or in several if some are long; see `Embedder.encode_batch`. The caller bounds the batch; see
        `batch_limits`.

        Args:
            pairs: what `tokenize_pairs` of this model returned.
            single_thread: compute in the calling thread alone. Otherwise a batch takes all threads of the model if no
                other call is running.

        Returns:
            float32 (n, labels), in the order of `pairs`, without activation.

        Raises:
            InputError: a pair is no TokenizedText, or has token ids or a length that no pair of this model has.

        Example:
            >>> model.predict_batch(model.tokenize_pairs([("a cat", "a dog")])).shape  # doctest: +SKIP
            (1, 1)
        """
        check_flag("single_thread", single_thread)
        return encode_batch(self._engine, pairs, EncodeSettings(), self.label_count, single_thread=single_thread)

    def _settings_of(
        self, options: PredictOptions, call: str = "predict", keywords: Iterable[str] = ()
    ) -> PredictSettings:
        settings = PredictSettings.of(options, call, keywords)
        self._check_softmax(settings.activation_fn)
        return settings

    def _check_softmax(self, activation_fn: str | None) -> None:
        if activation_fn == "softmax" and self.label_count == 1:
            raise InputError('activation_fn "softmax" needs several labels: of one score, it is always 1')

    def _predict(self, pairs: Sequence[Pair], settings: PredictSettings, name: str) -> NDArray[np.float32]:
        """Return the scores of a list. `name` is the word for its items in a CutTextWarning."""
        values, _, cut = encode_items(self._engine, list(pairs), settings.encode_settings, self.label_count)
        if cut is not None:
            self._warn(CutTexts().add(np.flatnonzero(cut), len(cut)), name)
        return self._finish(values, settings)

    def _scores_of(self, blocks: Iterator[Block], settings: PredictSettings) -> Iterator[NDArray[np.float32]]:
        """Yield the scores of a stream. After the last ones, warn of the pairs that were cut."""
        cut = CutTexts()
        for block in blocks:
            if block.cut is not None:
                cut = cut.add(block.start + np.flatnonzero(block.cut), len(block.cut))
            yield self._finish(block.values, settings)
        self._warn(cut, "pairs")

    def _warn(self, cut: CutTexts, name: str) -> None:
        cut.warn(self.max_seq_length, name, _CUT_HINT)

    def _finish(self, values: NDArray[np.float32], settings: PredictSettings) -> NDArray[np.float32]:
        """Return the scores after the activation. With one label, they have no axis for it."""
        name = settings.activation_fn or self.activation_fn
        scores = apply_activation(values, name, apply_softmax=settings.apply_softmax)
        return scores[:, 0] if self.label_count == 1 else scores
