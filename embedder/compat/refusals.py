"""What sentence-transformers has and embedder does not have, with what to do instead."""

from __future__ import annotations

from embedder.errors import DependencyError, EmbedderError

_TRAIN = (
    "embedder does not train. Train with sentence-transformers, save the model, and export it: "
    "embedder-export DIRECTORY --output ARTIFACT"
)
_EVALUATE = "evaluators are in sentence_transformers. They take this model: evaluator(model)"
_MODULES = (
    "the model is one ONNX graph without modules. For its modules, use sentence-transformers. model.tokenizer, "
    "model.max_seq_length and model.embedder.manifest are here"
)
_SAVE = "the model is an exported artifact. Copy its directory, or publish it with embedder-export --push-to"
_MULTI_VECTOR = "use embedder.MultiVectorEncoder, which has the same methods and gives NumPy arrays"
_MAXSIM = 'use embedder.maxsim and embedder.maxsim_pairwise. They take function="meanmaxsim" too'
_FILES = "use huggingface_hub, which fetches and finds files of the Hub"
_TORCH_TOOL = "it is a tool for torch. Import it from sentence_transformers"
_LOGGING = "use Python's logging. The logger is called embedder"
_BACKEND = "export with embedder-export; --dtypes fp32,int8 adds an int8 graph"
_FAISS = "use embedder.semantic_search_quantized, embedder.FaissIndex or embedder.UsearchIndex"


class UnsupportedError(EmbedderError, AttributeError):
    """An attribute of sentence-transformers that embedder does not have. The message says what to use.

    Example:
        >>> issubclass(UnsupportedError, AttributeError)
        True
    """


def _table(*rows: tuple[str, str]) -> dict[str, str]:
    return {name: hint for names, hint in rows for name in names.split()}


# Attributes of the class SentenceTransformer.
MEMBERS = _table(
    (
        "backward buffers dump_patches fit get_extra_state gradient_checkpointing_enable "
        "load_state_dict named_buffers named_parameters old_fit parameters requires_grad set_extra_state "
        "smart_batching_collate state_dict to_empty zero_grad",
        _TRAIN,
    ),
    (
        "bfloat16 double type",
        'graphs are fp32, fp16 or int8. Choose one by model_kwargs={"dtype": ...}, model.half() or model.float()',
    ),
    ("dtype", "model.embedder.dtype is the name of the graph's dtype"),
    ("_target_device", "use model.device and model.to(device)"),
    (
        "T_destination add_module append apply auto_model call_super_init children clear_placement_cache config "
        "default_huggingface_organization extend extra_repr forward get_buffer get_parameter get_sentence_features "
        "get_submodule insert model_card_data_class model_type module_kwargs modules named_children named_modules "
        "pop processor register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
        "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
        "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
        "register_state_dict_pre_hook set_pooling_include_prompt set_submodule smart_apply transformers_model "
        "_first_module _last_module _modules",
        _MODULES,
    ),
    (
        "active_adapter active_adapters add_adapter check_peft_compatible_model delete_adapter disable_adapters "
        "enable_adapters get_adapter_state_dict has_peft_compatible_model load_adapter set_adapter",
        _TRAIN,
    ),
    ("ipu mtia xpu", "call model.to(device), or pass device= to SentenceTransformer(...)"),
    ("merge push_to_hub save save_pretrained save_to_hub", _SAVE),
)

# Attributes of the class CrossEncoder.
CROSS_ENCODER_MEMBERS = MEMBERS | _table(
    (
        "config",
        "the graph is exported already. model.num_labels and model.embedder.label_names are the labels",
    ),
    ("get_default_activation_fn", "model.embedder.activation_fn is its name"),
    ("keep_in_fp32_modules set_keep_in_fp32_modules", 'model_kwargs={"dtype": "fp32"} computes in fp32'),
    ("model", _MODULES),
    ("smart_batching_collate_text_only", _TRAIN),
    ("preprocess tokenize", "call model.embedder.tokenize_pairs(pairs)"),
    ("ipu mtia xpu", "call model.to(device), or pass device= to CrossEncoder(...)"),
    (
        "start_multi_process_pool stop_multi_process_pool",
        "embedder has no pools of processes for cross-encoders. One model uses all cores",
    ),
)

# Attributes that are here, but cannot be set.
FIXED = {
    "backend": "pass backend= to the constructor",
    "device": "call model.to(device)",
    "embedder": "load the other model",
    "model_card_data": _SAVE,
    "modalities": "they are the artifact's",
    "tokenizer": "its result depends on the exported tokenizer. Export a checkpoint that has the other one",
    "training": _TRAIN,
}

# The same for the class CrossEncoder.
CROSS_ENCODER_FIXED = FIXED | {
    "default_activation_function": "set model.activation_fn",
    "num_labels": "they are the artifact's",
}

# Names of the package sentence_transformers and of its folders.
PACKAGE = _table(
    (
        "SparseEncoder SparseEncoderModelCardData sparse_encoder",
        "use embedder.SparseEncoder",
    ),
    ("MultiVectorEncoder MultiVectorEncoderModelCardData multi_vector_encoder", _MULTI_VECTOR),
    (
        "CrossEncoderModelCardData CrossEncoderTrainer CrossEncoderTrainingArguments DefaultBatchSampler InputExample "
        "MultiDatasetDefaultBatchSampler MultiVectorEncoderTrainer MultiVectorEncoderTrainingArguments "
        "ParallelSentencesDataset SentenceTransformerModelCardData SentenceTransformerTrainer "
        "SentenceTransformerTrainingArguments SentencesDataset SparseEncoderTrainer SparseEncoderTrainingArguments "
        "data_collator datasets losses model_card readers sampler trainer training_args",
        _TRAIN,
    ),
    ("evaluation", _EVALUATE),
    ("base models", _MODULES),
    ("backend", _BACKEND),
    (
        "export_optimized_onnx_model export_dynamic_quantized_onnx_model export_static_quantized_openvino_model",
        _BACKEND,
    ),
    ("mine_hard_negatives", "embedder.mine_hard_negatives works on embeddings"),
    ("resolve_ids", _TRAIN),
)

# Modules of sentence-transformers, in the package itself and in its folders `sentence_transformer` and `cross_encoder`.
MODULES = PACKAGE | _table(
    ("fit_mixin peft_mixin", _TRAIN),
    ("modules", _MODULES),
)

# Names of sentence_transformers.util and sentence_transformers.quantization.
UTIL = _table(
    ("maxsim maxsim_pairwise mean_maxsim mean_maxsim_pairwise", _MAXSIM),
    ("http_get", "use urllib.request.urlretrieve(url, path)"),
    ("load_dir_path load_file_path is_sentence_transformer_model", _FILES),
    ("install_logger disable_logging disabled_tqdm", _LOGGING),
    ("mine_hard_negatives", "embedder.mine_hard_negatives works on embeddings"),
    ("get_device_name", "leave device= out: embedder takes a GPU if one works, otherwise the CPU"),
    ("semantic_search_faiss semantic_search_usearch", _FAISS),
    (
        "ORIGINAL_TRANSFORMER_MODELS all_gather all_gather_padded all_gather_with_grad append_to_last_row "
        "batch_to_device cat_padded_token_embeddings check_package_availability check_teacher_targets "
        "check_version_requirements compute_count_vector disable_datasets_caching fullname get_rank get_world_size "
        "import_from_string import_module_class is_accelerate_available is_datasets_available is_dist_initialized "
        "is_training_available repad_flattened_features resolve_ids save_to_hub_args_decorator "
        "select_max_active_dims similarity_fct_name stack_padded_token_embeddings to_scipy_coo",
        _TORCH_TOOL,
    ),
)


def refuse_import(module: str, name: str, table: dict[str, str]) -> AttributeError:
    """Return the AttributeError of a module that does not have `name`.

    Raises:
        DependencyError: sentence-transformers has the name. It is an ImportError, so that the message of
            `from module import name` is this one.
    """
    if name in table:
        raise DependencyError(f"{module} has no {name}: {table[name]}")
    return AttributeError(f"module {module!r} has no attribute {name!r}")
