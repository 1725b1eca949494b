"""T5Tokenizer: Unigram. It adds sentinels ("<extra_id_0>" and so on) as special tokens."""

from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import ADDITIONAL, Settings, TokenizerClass

_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def _with_sentinels(settings: Settings) -> Settings:
    """Return the settings with T5's sentinels among the additional special tokens."""
    count, given = settings.get("extra_ids", 100), settings.get(ADDITIONAL)
    # With the setting add_prefix_space, transformers builds a new tokenizer from the SentencePiece model.
    if type(count) is not int or settings.get("add_prefix_space") is not None:
        raise NotNativeError("it has unusual extra_ids, or add_prefix_space")
    sentinels = [token for token in given or [] if "<extra_id_" in str(token)]
    if sentinels and count > 0 and len(sentinels) != count:
        raise NotNativeError(f"it has {len(sentinels)} of its {count} extra_ids among {ADDITIONAL}")
    made = [] if sentinels else [f"<extra_id_{at}>" for at in range(count)]
    return settings | {ADDITIONAL: [*(given or []), *made], "add_prefix_space": None}


T5 = TokenizerClass(_TOKENS, vocabulary_files=("spiece.model",), complete=_with_sentinels)
