"""The classes that take tokenizer.json as it is: PreTrainedTokenizerFast, and TokenizersBackend of transformers 5."""

from embedder_export.tokenizer.classes.tokenizer_class import Settings, TokenizerClass


def _with_saved_prefix_space(settings: Settings) -> Settings:
    """No setting changes the prefix space that tokenizer.json has."""
    return settings | {"add_prefix_space": None}


GENERAL = TokenizerClass(has_token_types=True)
GENERAL_OF_5 = TokenizerClass(complete=_with_saved_prefix_space)
