"""The classes that leave tokenizer.json unchanged: PreTrainedTokenizerFast, and TokenizersBackend of transformers 5."""

from embedder_export.tokenizer.classes.tokenizer_class import Settings, TokenizerClass


def _with_saved_prefix_space(settings: Settings) -> Settings:
    """Return the settings without a prefix space. The prefix space of tokenizer.json then stays."""
    return settings | {"add_prefix_space": None}


GENERAL = TokenizerClass(has_token_types=True)
GENERAL_OF_5 = TokenizerClass(complete=_with_saved_prefix_space)
