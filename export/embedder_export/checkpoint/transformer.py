"""Read the transformer's settings: config.json, tokenizer_config.json and sentence-transformers' settings file."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.layers import SCORES, SENTENCE, TOKENS
from embedder_export.errors import CheckpointError
from embedder_export.families.family import Family

# The possible names of sentence-transformers' settings file. It tries them in this order.
_SETTINGS_FILES = tuple(
    f"sentence_{architecture}_config.json"
    for architecture in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# sentence-transformers' names of tasks: the transformer gives token vectors, logits of labels, or logits of words.
EXTRACTION, CLASSIFICATION, FILL_MASK = "feature-extraction", "sequence-classification", "fill-mask"
_Check = Callable[[Any], bool]


def _is_optional_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _is_optional_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


# The check of each setting's value. Arguments for transformers must be empty: some of them are paths, and
# `weights_only` decides whether loading may run code.
_SETTINGS: dict[str, _Check] = {
    "max_seq_length": _is_optional_count,
    "do_lower_case": _is_optional_flag,
    "unpad_inputs": _is_optional_flag,
} | dict.fromkeys(
    (
        "model_args",
        "model_kwargs",
        "tokenizer_args",
        "processor_kwargs",
        "config_args",
        "config_kwargs",
        "processing_kwargs",
        "tokenizer_name_or_path",
    ),
    lambda value: not value,
)
# The settings for queries and documents. `checkpoint.roles` checks their values.
_ROLE_SETTINGS: dict[str, _Check] = dict.fromkeys(
    ("query_length", "document_length", "query_expansion"), lambda value: True
)
# transformers' own implementations of attention, and that of Jina v2's code. For other names transformers would fetch
# code.
_ATTENTION = ("eager", "sdpa", "torch")


def check_adapters(config: Mapping[str, Any]) -> None:
    """Check that config.json names no adapters of tasks, as that of Jina Embeddings v3 on the Hub does.

    Raises:
        CheckpointError: it names some.

    Example:
        >>> check_adapters({"model_type": "jina_embeddings_v3"})
    """
    names = config.get("lora_adaptations")
    if names:
        listed = ", ".join(map(str, names)) if isinstance(names, list) else str(names)
        raise CheckpointError(
            f"the checkpoint has adapters ({listed:.120}), which are not supported. Export a checkpoint of its base "
            "model, or one into which an adapter has been merged"
        )


def read_config(directory: Path, transformer: Path) -> dict[str, Any]:
    """Return the content of config.json. Settings that lead transformers to other files are refused.

    Args:
        directory: the checkpoint's directory.
        transformer: the directory of its transformer.

    Raises:
        CheckpointError: config.json is missing or damaged, or a file names something outside of the checkpoint.

    Example:
        >>> directory = Path("checkpoints/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> read_config(directory, directory)["model_type"]  # doctest: +SKIP
        'bert'
    """
    for place in (directory, transformer):
        if (place / "adapter_config.json").exists():
            raise CheckpointError(f"{place} holds an adapter (adapter_config.json), which is not supported")
    config = cast(dict[str, Any], read_json(transformer / "config.json", dict))
    check_adapters(config)
    for key, value in config.items():
        if "attn_implementation" in key and isinstance(value, str) and value not in _ATTENTION:
            raise CheckpointError(f"{transformer / 'config.json'} has {value!r:.80} as {key}")
    path = transformer / "tokenizer_config.json"
    for key, value in read_json(path, dict, default={}).items():
        # Old checkpoints name files of the machine that wrote them. A file that does not exist here does no harm.
        if key.endswith("_file") and isinstance(value, str) and _is_outside(transformer, value):
            raise CheckpointError(f"{path} has {value!r:.80} as {key}, a file outside of the checkpoint")
    return config


def read_transformer_settings(
    transformer: Path, family: Family[Any], tasks: Collection[str] = (EXTRACTION,), *, has_roles: bool = False
) -> dict[str, Any]:
    """Return sentence-transformers' settings of a transformer of `family`. They are empty if there is no file.

    Args:
        transformer: the transformer's directory.
        family: its family.
        tasks: the values of transformer_task that the caller supports.
        has_roles: whether there may be settings for queries and documents. The caller checks their values.

    Raises:
        CheckpointError: a setting is unknown, or has a value that cannot be honoured.

    Example:
        >>> read_transformer_settings(Path("checkpoints/all-MiniLM-L6-v2"), BERT)  # doctest: +SKIP
        {'max_seq_length': 256, 'do_lower_case': False}
    """
    for name in _SETTINGS_FILES:
        path = transformer / name
        settings: dict[str, Any] = read_json(path, dict, default={})
        if not settings:
            continue
        task = settings.get("transformer_task", EXTRACTION)
        roles = _ROLE_SETTINGS if has_roles else {}
        known = _SETTINGS | roles | _output_settings(family, task) | {"transformer_task": tasks.__contains__}
        if family.pads_texts:
            known |= {"processing_kwargs": _pads_all}
        for key, value in settings.items():
            if key not in known or not known[key](value):
                raise CheckpointError(f"{path} has {value!r:.80} as {key}, which is not supported")
        return settings
    return {}


def _output_settings(family: Family[Any], task: str) -> dict[str, _Check]:
    """Return the checks of the settings that name the transformer's output: token vectors, pooled vectors or logits."""
    if family.own_pooling is None:
        output = "last_hidden_state" if task == EXTRACTION else "logits"
        name = SCORES if task == CLASSIFICATION else TOKENS
        return {
            "modality_config": lambda value: (
                isinstance(value, dict) and "message" not in value and _gives(value.get("text"), output)
            ),
            "module_output_name": lambda value: value == name,
        }
    return {
        "modality_config": lambda value: (
            isinstance(value, dict)
            and set(value) == set(family.modalities)
            and all(_gives_features(modality, method) for modality, method in value.items())
        ),
        "module_output_name": lambda value: value == SENTENCE,
    }


def _pads_all(value: Any) -> bool:
    """Return whether settings of a processor are empty, or let it pad each text to the longest length."""
    return not value or value == {"text": {"padding": "max_length"}}


def _gives(method: Any, output: str) -> bool:
    if not isinstance(method, Mapping):
        return False
    return method.get("method") == "forward" and method.get("method_output_name") in (output, [output])


def _gives_features(modality: str, method: Any) -> bool:
    # In transformers 4 the method returns the features. In transformers 5 they are one of its outputs.
    return (
        isinstance(method, Mapping)
        and method.get("method") == f"get_{modality}_features"
        and method.get("method_output_name") in (None, "pooler_output")
    )


def _is_outside(directory: Path, name: str) -> bool:
    return os.path.exists(name) and not os.path.abspath(name).startswith(os.path.abspath(directory) + os.sep)
