"""Let transformers read a tokenizer that the export cannot read natively."""

from pathlib import Path
from typing import Any

from embedder.common.panics import panics_as_exceptions

from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.tokenizer.classes import splits_white_space
from embedder_export.tokenizer.contract import EffectiveTokenizer
from embedder_export.tokenizer.native import UnknownClassError
from embedder_export.tokenizer.transformers5 import needs_version_5

# The classes with a fast version in transformers 4.57, the version of the extra [torch]. For another class the extra is
# no help, so the message does not suggest it. A test compares this list with transformers.
_FAST_NAMES = """
Albert Bart Barthez Bert BigBird Blenderbot BlenderbotSmall Bloom CLIP Camembert CodeGen CodeLlama Cohere ConvBert
Cpm DPRContextEncoder DPRQuestionEncoder DPRReader Deberta DebertaV2 DistilBert Electra FNet Funnel GPT2 GPTNeoX
Gemma Herbert LED LayoutLM LayoutLMv2 LayoutLMv3 LayoutXLM Llama Longformer Lxmert MBart MBart50 MPNet MT5 MarkupLM
MobileBert Mvp Nllb Nougat OpenAIGPT Parakeet Pegasus Qwen2 Realm Reformer RemBert RetriBert RoFormer Roberta
SeamlessM4T Splinter SqueezeBert T5 Udop Whisper XGLM XLMRoberta XLNet
"""
# A tokenizer of this class gives no token types in transformers 5, unless its settings say so.
_GENERAL_CLASS = "PreTrainedTokenizerFast"
FAST_CLASSES = frozenset(f"{name}Tokenizer" for name in _FAST_NAMES.split())


def read_with_transformers(directory: Path, reason: NotNativeError) -> EffectiveTokenizer:
    """Read the tokenizer in `directory` with transformers.

    Args:
        directory: the tokenizer's directory.
        reason: why the tokenizer cannot be read natively. The messages begin with it.

    Raises:
        NeedsTorchError: transformers may be able to read the tokenizer, and is not installed.
        CheckpointError: transformers cannot read it.

    Example:
        >>> reason = NotNativeError("its class is not known")  # doctest: +SKIP
        >>> read_with_transformers(Path("checkpoints/xlnet"), reason).pad_id  # doctest: +SKIP
        5
    """
    try:
        import transformers
    except ImportError:
        raise error_without_transformers(directory, reason) from reason
    try:
        auto: Any = transformers.AutoTokenizer
        with panics_as_exceptions():
            tokenizer = auto.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the library raises any class; this block holds only its call
        version = transformers.__version__
        raise CheckpointError(f"{reason}, and transformers {version} cannot read it either: {error}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"{reason}, and transformers has no fast version of it")
    return _as_effective(tokenizer)


def error_without_transformers(directory: Path, reason: NotNativeError) -> CheckpointError | NeedsTorchError:
    """Return the error if transformers is not installed. It suggests an installation only if that can help.

    Args:
        directory: the tokenizer's directory.
        reason: why the tokenizer cannot be read natively. The messages begin with it.

    Example:
        >>> error_without_transformers(Path("checkpoint"), UnknownClassError("MyTokenizer"))
        CheckpointError("its class 'MyTokenizer' is not known; transformers has no fast version of it either")
    """
    if isinstance(reason, UnknownClassError) and reason.name not in FAST_CLASSES:
        return CheckpointError(f"{reason}; transformers has no fast version of it either")
    if needs_version_5(directory):
        return CheckpointError(f"{reason}; the transformers that the extra [torch] brings cannot read it either")
    return NeedsTorchError(f"the tokenizer cannot be read here: {reason}")


def _as_effective(tokenizer: Any) -> EffectiveTokenizer:
    has_types, settings = "token_type_ids" in tokenizer.model_input_names, tokenizer.init_kwargs
    name = type(tokenizer).__name__
    return EffectiveTokenizer(
        backend=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        pad_id=tokenizer.pad_token_id,
        special_ids=tuple(sorted(tokenizer.all_special_ids)),
        has_token_types=has_types,
        has_pair_types=has_types and (name != _GENERAL_CLASS or "model_input_names" in settings),
        splits_white_space=splits_white_space(name),
        padding_side=tokenizer.padding_side,
        gives_mask="attention_mask" in tokenizer.model_input_names,
        truncation_side=tokenizer.truncation_side,
        splits_special_tokens=tokenizer.split_special_tokens,
        unknown_token=tokenizer.unk_token,
        expansion_token=tokenizer.mask_token or tokenizer.eos_token,
    )
