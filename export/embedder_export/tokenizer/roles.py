"""Turn the settings of queries and documents from words to token ids, and add the tokens that begin them."""

from embedder.artifact.multi_vector import MultiVectorSettings, QueryExpansion
from tokenizers import AddedToken, Tokenizer

from embedder_export.checkpoint.roles import Expansion, TextRoles
from embedder_export.errors import CheckpointError
from embedder_export.tokenizer.contract import EffectiveTokenizer


def add_markers(backend: Tokenizer, roles: TextRoles) -> None:
    """Make special tokens of the tokens that begin queries and documents, as sentence-transformers does.

    A marker such as "[unused0] " or "[Q] " is the start of a prompt. Tokenizers would split it as other text. A marker
    that is no token stays text.

    Example:
        >>> add_markers(backend, TextRoles(markers=("[unused0] ",)))  # doctest: +SKIP
    """
    found = []
    for marker in roles.markers:
        # The marker may be a token with its space, or its first word may be one.
        names = (marker, *marker.split(None, 1)[:1]) if marker.split() else ()
        token = next((name for name in names if backend.token_to_id(name) is not None), None)
        if token is not None and backend.encode(token, add_special_tokens=False).tokens != [token]:
            found.append(AddedToken(token, normalized=False, special=True))
    if found:
        backend.add_special_tokens(found)


def resolve_roles(
    roles: TextRoles, tokenizer: EffectiveTokenizer, max_seq_length: int, usable_positions: int | None
) -> MultiVectorSettings:
    """Return the manifest's settings.

    Args:
        roles: the checkpoint's settings.
        tokenizer: its tokenizer.
        max_seq_length: most tokens of a text without a role.
        usable_positions: most tokens that the transformer can read. None stands for no limit.

    Raises:
        CheckpointError: a limit leaves no room for a text, the transformer cannot read an expanded query; or the
            tokenizer lacks the token that fills it up, or pads on the left.

    Example:
        >>> resolve_roles(TextRoles(query_length=32), tokenizer, 512, 512).query_length  # doctest: +SKIP
        32
    """
    expansion = roles.expansion
    query = roles.query_length or max_seq_length
    if expansion is not None:
        if usable_positions is not None and expansion.length > usable_positions:
            raise CheckpointError(
                f"it fills queries up to {expansion.length} tokens, and the model can read {usable_positions}"
            )
        if expansion.is_fixed:
            query = expansion.length
        elif roles.query_length is not None:
            query = max(roles.query_length, expansion.length)
    document = roles.document_length or max_seq_length
    if usable_positions is not None:
        query, document = min(query, usable_positions), min(document, usable_positions)
    special = tokenizer.backend.num_special_tokens_to_add(is_pair=False)
    if min(query, document) <= special:
        raise CheckpointError(
            f"a limit of {min(query, document)} tokens leaves no room for a text beside {special} special tokens"
        )
    ids = (tokenizer.backend.token_to_id(word) for word in roles.skipped_words)
    skipped = tuple(sorted({token_id for token_id in ids if token_id is not None}))
    return MultiVectorSettings(
        query_length=query,
        document_length=document,
        expansion=None if expansion is None else _resolve_expansion(expansion, tokenizer),
        skipped_ids=skipped,
        skipped_in=roles.skipped_in if skipped else (),
        skipped_first=roles.skipped_first,
    )


def _resolve_expansion(expansion: Expansion, tokenizer: EffectiveTokenizer) -> QueryExpansion:
    if tokenizer.padding_side != "right":
        raise CheckpointError("it pads on the left, and so it would fill up queries there, which is not supported")
    token = tokenizer.expansion_token if expansion.token is None else expansion.token
    token_id = None if token is None else tokenizer.backend.token_to_id(token)
    if token_id is None:
        named = "a mask token or a token for the end" if token is None else f"the token {token!r:.80}"
        raise CheckpointError(f"it lacks {named}, which should fill up queries")
    return QueryExpansion(expansion.length, token_id, expansion.is_attended)
