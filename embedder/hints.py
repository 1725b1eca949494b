"""What to do instead of options and assignments that embedder refuses. Most names are those of sentence-transformers.

Messages put a hint after "... has no option NAME: " and "... cannot be set: ".
"""

from __future__ import annotations

_DTYPE = "choose the graph when you load the model: Embedder(model, dtype=...)"
_POOL_ENCODE = "use EncoderPool(model).encode(...)"
_PROVIDERS = "pass providers=, with one for each worker"
_MODEL = "the model's name or path is the first argument: Embedder(model)"
_OF_ARTIFACT = "the artifact holds the settings of the model. To change them, change its checkpoint and export it again"
_CACHE = "set the environment variable HF_HOME for the Hub's cache, and EMBEDDER_HOME for the exported models"
_NO_CODE = "leave it out. Artifacts contain no code, and the export runs none of a checkpoint's"

# Attributes of `Embedder`.
ATTRIBUTE_HINTS = {
    "truncate_dim": "pass truncate_dim= to Embedder(...) or to encode",
    "similarity_fn_name": "call embedder.cos_sim, dot_score, euclidean_sim or manhattan_sim on the vectors",
    "prompts": "pass prompt= or prompt_name= to encode",
    "default_prompt_name": "pass prompt_name= to encode",
    "max_seq_length": "pass max_seq_length= to Embedder(...)",
    "device": "pass provider= to Embedder(...)",
    "dtype": "pass dtype= to Embedder(...)",
    "dimension": "pass truncate_dim= to Embedder(...)",
}

# Options of `Embedder`.
LOAD_HINTS = {
    "model_name_or_path": _MODEL,
    "model_name": _MODEL,
    "modules": "export the checkpoint with embedder-export, and give the path of the artifact",
    "device": "pass provider= instead. Without it, a GPU is used if one works",
    "providers": "pass provider= instead. Without it, a GPU is used if one works",
    "prompts": ATTRIBUTE_HINTS["prompts"],
    "default_prompt_name": "pass prompt_name= to encode, or call encode_query and encode_document",
    "similarity_fn_name": ATTRIBUTE_HINTS["similarity_fn_name"],
    "cache_folder": _CACHE,
    "cache_dir": _CACHE,
    "trust_remote_code": _NO_CODE,
    "use_auth_token": "pass token= instead",
    "model_kwargs": "pass dtype= to choose the graph, and provider= to choose the device",
    "torch_dtype": 'pass dtype= to choose the graph, such as dtype="fp32"',
    "tokenizer_kwargs": "pass max_seq_length= for the limit of a text. The artifact holds the other settings",
    "processor_kwargs": "pass max_seq_length= for the limit of a text. The artifact holds the other settings",
    "config_kwargs": _OF_ARTIFACT,
    "config_args": _OF_ARTIFACT,
    "model_card_data": "leave it out. embedder does not train models",
}

# Attributes of `CrossEncoder`.
CROSS_ENCODER_ATTRIBUTE_HINTS = {
    "max_seq_length": "pass max_seq_length= to CrossEncoder(...)",
    "max_length": "pass max_seq_length= to CrossEncoder(...)",
    "activation_fn": "pass activation_fn= to CrossEncoder(...) or to predict",
    "default_activation_function": "pass activation_fn= to CrossEncoder(...) or to predict",
    "device": "pass provider= to CrossEncoder(...)",
    "dtype": "pass dtype= to CrossEncoder(...)",
    "prompts": "pass prompt= or prompt_name= to predict",
    "default_prompt_name": "pass prompt_name= to predict",
}

# Options of `CrossEncoder`.
CROSS_ENCODER_HINTS = {
    **LOAD_HINTS,
    **dict.fromkeys(("model_name_or_path", "model_name"), "the model is the first argument: CrossEncoder(model)"),
    **dict.fromkeys(("automodel_args", "model_args"), LOAD_HINTS["model_kwargs"]),
    **dict.fromkeys(("tokenizer_args", "max_length"), "pass max_seq_length= for the limit of a pair"),
    "num_labels": "the artifact has the model's labels. CrossEncoder.label_count is their number",
    "default_activation_function": "pass activation_fn= instead",
    "default_prompt_name": "pass prompt_name= to predict",
    "prompts": "pass prompt= or prompt_name= to predict",
    "truncate_dim": "leave it out. Scores have no dimensions to cut",
}

# Options of `predict` and `rank`.
PREDICT_HINTS = {
    "sentences": "the pairs are the first argument: predict(pairs)",
    "inputs": "the pairs are the first argument: predict(pairs)",
    "activation_fct": "pass activation_fn= instead",
    "convert_to_numpy": "predict always returns a NumPy array",
    "convert_to_tensor": "predict returns a NumPy array. torch.from_numpy(array) makes a tensor of it",
    "num_workers": "pass threads= when you load the model: CrossEncoder(model, threads=...)",
    "device": "choose the device when you load the model: CrossEncoder(model, provider=...)",
    "max_length": "pass the limit when you load the model: CrossEncoder(model, max_seq_length=...)",
    "max_seq_length": "pass it when you load the model: CrossEncoder(model, max_seq_length=...)",
    "dtype": "choose the graph when you load the model: CrossEncoder(model, dtype=...)",
}

# Attributes of `SparseEncoder`.
SPARSE_ENCODER_ATTRIBUTE_HINTS = {
    "max_seq_length": "pass max_seq_length= to SparseEncoder(...)",
    "max_active_dims": "pass max_active_dims= to SparseEncoder(...) or to encode",
    "similarity_fn_name": "call embedder.sparse_dot_score or sparse_cos_sim on the vectors",
    "device": "pass provider= to SparseEncoder(...)",
    "dtype": "pass dtype= to SparseEncoder(...)",
    "prompts": "pass prompt= or prompt_name= to encode",
    "default_prompt_name": "pass prompt_name= to encode",
}

# Options of `SparseEncoder`.
SPARSE_ENCODER_HINTS = {
    **LOAD_HINTS,
    **dict.fromkeys(("model_name_or_path", "model_name"), "the model is the first argument: SparseEncoder(model)"),
    "similarity_fn_name": SPARSE_ENCODER_ATTRIBUTE_HINTS["similarity_fn_name"],
    "truncate_dim": "pass max_active_dims= to keep the largest numbers of each vector",
}

# Options of `SparseEncoder.encode` and its siblings.
SPARSE_ENCODE_HINTS = {
    "sentences": "the texts are the first argument: encode(texts)",
    "device": "choose the device when you load the model: SparseEncoder(model, provider=...)",
    "convert_to_tensor": "encode returns SparseVectors. Their to_dense and to_scipy make other types of them",
    "convert_to_sparse_tensor": "encode returns SparseVectors. Their to_dense and to_scipy make other types of them",
    "save_to_cpu": "leave it out. The vectors are always in main memory",
    "task": "call encode_query or encode_document",
    "truncate_dim": "pass max_active_dims= to keep the largest numbers of each vector",
    "normalize_embeddings": "compare the vectors with embedder.sparse_cos_sim",
    "precision": "leave it out. The numbers are always float32",
    "max_seq_length": "pass it when you load the model: SparseEncoder(model, max_seq_length=...)",
    "dtype": "choose the graph when you load the model: SparseEncoder(model, dtype=...)",
}

# Options of `EncoderPool`.
POOL_HINTS = LOAD_HINTS | {
    "device": _PROVIDERS,
    "provider": _PROVIDERS,
    "target_devices": _PROVIDERS,
    "verify": "leave it out. Each worker checks the files",
    "backend": "leave it out. Each worker uses onnxruntime",
}

# Options of `encode` and its siblings.
ENCODE_HINTS = {
    "errors": "encode returns one vector for each input. encode_readable leaves out images that cannot be read",
    "sentences": "the inputs are the first argument: encode(texts)",
    "device": "choose the device when you load the model: Embedder(model, provider=...)",
    "convert_to_numpy": "encode always returns a NumPy array",
    "convert_to_tensor": "encode returns a NumPy array. torch.from_numpy(array) makes a tensor of it",
    "output_value": "encode always returns sentence embeddings",
    "pool": _POOL_ENCODE,
    "target_devices": _POOL_ENCODE,
    "chunk_size": "use EncoderPool(model).encode(..., chunk_size=...)",
    "task": "pass prompt= or prompt_name=, or call encode_query or encode_document",
    "instruction": "pass prompt=",
    "max_seq_length": "pass it when you load the model: Embedder(model, max_seq_length=...)",
    "max_length": "pass the limit when you load the model: Embedder(model, max_seq_length=...)",
    "num_workers": "pass threads= when you load the model: Embedder(model, threads=...)",
    "dtype": _DTYPE,
    "graph": _DTYPE,
}

# Attributes of `MultiVectorEncoder`.
MULTI_VECTOR_ATTRIBUTE_HINTS = {
    "query_length": _OF_ARTIFACT,
    "document_length": "pass document_length= to MultiVectorEncoder(...)",
    "max_seq_length": "pass document_length= to MultiVectorEncoder(...)",
    "similarity_fn_name": "call embedder.maxsim on the vectors, with function=",
    "prompts": "pass prompt= or prompt_name= to encode_query or encode_document",
    "device": "pass provider= to MultiVectorEncoder(...)",
    "dtype": "pass dtype= to MultiVectorEncoder(...)",
    "dimension": _OF_ARTIFACT,
}

# Options of `MultiVectorEncoder`.
MULTI_VECTOR_LOAD_HINTS = {
    **LOAD_HINTS,
    **dict.fromkeys(("model_name_or_path", "model_name"), "the model is the first argument: MultiVectorEncoder(model)"),
    **MULTI_VECTOR_ATTRIBUTE_HINTS,
    **dict.fromkeys(("query_expansion", "attend_to_expansion_tokens", "skiplist_words", "query_prefix"), _OF_ARTIFACT),
    "device": LOAD_HINTS["device"],
    "truncate_dim": "leave it out. The model's scores need all dimensions",
}

# Options of `encode`, `encode_query`, `encode_document` and `rank`.
MULTI_VECTOR_HINTS = {
    "inputs": "the texts are the first argument: encode_query(texts)",
    "sentences": "the texts are the first argument: encode_query(texts)",
    "is_query": "call encode_query or encode_document",
    "output_value": "encode always returns the vectors of tokens",
    "convert_to_numpy": "encode always returns NumPy arrays",
    "convert_to_tensor": "encode returns NumPy arrays. torch.from_numpy(array) makes a tensor of one",
    "token_pooling": "embedder does not pool tokens",
    "pool_factor": "embedder does not pool tokens",
    "pool": "embedder has no pools of processes for such models. One model uses all cores",
    "chunk_size": "embedder has no pools of processes for such models. One model uses all cores",
    "truncate_dim": MULTI_VECTOR_LOAD_HINTS["truncate_dim"],
    "precision": "convert the vectors: vectors.astype(numpy.float16). embedder.maxsim takes them",
    "device": "choose the device when you load the model: MultiVectorEncoder(model, provider=...)",
    "dtype": "choose the graph when you load the model: MultiVectorEncoder(model, dtype=...)",
    "task": "call encode_query or encode_document",
}
