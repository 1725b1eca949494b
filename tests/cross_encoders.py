"""Write small random cross-encoders in the layouts that sentence-transformers saves."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, PreTrainedModel

from tests.checkpoints import NEW_TRANSFORMER, NEW_TYPES, SMALL, VOCABULARY_SIZE, write_json, write_modules
from tests.vocabularies import wordpiece

POSITIONS = 64
CLASSIFIER = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}
DENSE = "sentence_transformers.base.modules.dense.Dense"
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def write_classifier(
    directory: Path, *, labels: int = 1, model: PreTrainedModel | None = None, **settings: object
) -> Path:
    """Write a sequence classifier of transformers, as sentence-transformers before version 6 saves a cross-encoder.

    Args:
        directory: the new directory.
        labels: number of labels.
        model: the model. None makes a BERT with two layers and width 32.
        **settings: further settings of config.json.
    """
    torch.manual_seed(0)
    if model is None:
        sizes = {"vocab_size": VOCABULARY_SIZE, "max_position_embeddings": POSITIONS, "num_labels": labels}
        model = BertForSequenceClassification(BertConfig(**sizes, **SMALL, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    model.save_pretrained(directory)
    pair_tokenizer().save_pretrained(directory)
    return directory


def write_cross_encoder(directory: Path, *, labels: int = 1, declared: dict[str, object] | None = None) -> Path:
    """Write a cross-encoder as sentence-transformers 6 saves it. `declared` adds to its own settings."""
    write_classifier(directory, labels=labels)
    write_modules(directory, ["Transformer"], types=NEW_TYPES)
    write_json(directory / "sentence_bert_config.json", CLASSIFIER)
    _declare(directory, declared or {})
    return directory


def write_dense_cross_encoder(directory: Path, *, pooling: str = "mean", labels: int = 1) -> Path:
    """Write a cross-encoder of a transformer, a pooling and a Dense that gives the scores."""
    write_classifier(directory)
    write_modules(directory, ["Transformer", "Pooling", "Dense"], types=NEW_TYPES | {"Dense": DENSE})
    write_json(directory / "sentence_bert_config.json", NEW_TRANSFORMER)
    write_json(directory / "1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": pooling})
    settings = {"in_features": 32, "out_features": labels, "bias": True, "activation_function": IDENTITY}
    names = {"module_input_name": "sentence_embedding", "module_output_name": "scores"}
    write_json(directory / "2_Dense/config.json", settings | names)
    weights = {"linear.weight": torch.randn(labels, 32), "linear.bias": torch.randn(labels)}
    save_file(weights, directory / "2_Dense/model.safetensors")
    _declare(directory, {})
    return directory


def pair_tokenizer() -> BertTokenizerFast:
    """Return BERT's tokenizer of single texts and pairs, with a vocabulary of letters."""
    tokenizer = wordpiece()
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=special)
    return BertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=True, model_max_length=POSITIONS)


def change_weights(directory: Path, **changed: torch.Tensor | None) -> None:
    """Replace weights of a checkpoint. None removes one. Each "__" in a name stands for a dot."""
    path = directory / "model.safetensors"
    names = {name.replace("__", "."): tensor for name, tensor in changed.items()}
    weights = load_file(path) | names
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path, {"format": "pt"})


def _declare(directory: Path, declared: dict[str, object]) -> None:
    versions = {"sentence_transformers": "6.2.0", "transformers": "5.24.0", "pytorch": "2.13.0"}
    own = {"model_type": "CrossEncoder", "__version__": versions, "prompts": {}, "default_prompt_name": None}
    write_json(directory / "config_sentence_transformers.json", own | declared)
