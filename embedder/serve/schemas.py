"""JSON schemas of the requests and the answers. `openapi.py` composes the description of them."""

from __future__ import annotations

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]


def schema_of(name: str) -> Schema:
    """Return the reference to a schema of the document.

    Example:
        >>> schema_of("Token")
        {'$ref': '#/components/schemas/Token'}
    """
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(items: Schema, **more: Any) -> Schema:
    """Return the schema of a list.

    Example:
        >>> list_of({"type": "number"})
        {'type': 'array', 'items': {'type': 'number'}}
    """
    return {"type": "array", "items": items, **more}


def _object(properties: dict[str, Schema], *, required: tuple[str, ...] = (), closed: bool = False) -> Schema:
    """Return the schema of an object. A closed one has no other keys."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def _answer(properties: dict[str, Schema]) -> Schema:
    """Return the schema of an object that has all of its keys."""
    return _object(properties, required=tuple(properties))


def _optional(kind: str, description: str, **more: Any) -> Schema:
    """Return the schema of a key that may be missing or null."""
    return {"type": [kind, "null"], "description": description, **more}


_STRING: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_TOKEN_IDS = list_of(
    _WHOLE, minItems=1, description="Token ids of this model's own tokenizer, special tokens included."
)
_TEXT_OBJECT = _object({"text": _STRING}, required=("text",), closed=True)
_IMAGE_OBJECT = _object(
    {"image": {"type": "string", "description": "A data URI: data:image/png;base64,... Only for models of images."}},
    required=("image",),
    closed=True,
)
_ITEM: Schema = {"anyOf": [_STRING, _TOKEN_IDS, _TEXT_OBJECT, _IMAGE_OBJECT]}
_ITEMS: Schema = {
    "anyOf": [*_ITEM["anyOf"], list_of(_ITEM, minItems=1)],
    "description": "A text, the token ids of a text, an object with a text or an image; or a list of these.",
}
_MODEL = _optional(
    "string", "Name of a model. The part after its last slash is enough. Without it, the first embedding model."
)
_RERANKER = _optional(
    "string", "Name of a reranker. The part after its last slash is enough. Without it, the first reranker."
)
_PAIR = list_of(_STRING, minItems=2, maxItems=2)
_PROMPT = _optional(
    "string", "Name of the prompt before each text, such as query. Without it, the model's default one."
)
_TRUNCATE = _optional(
    "boolean", "false refuses texts that are longer than the model reads. Otherwise their ends are cut.", default=True
)
_DIRECTION = _optional("string", "The side that is cut. Only Right is possible.", default="Right")
_RAW_SCORES = _optional("boolean", "Leave out the function that brings scores between 0 and 1.", default=False)
_OPTIONS = _optional("object", "Ignored. Some clients of the Hub send it.")

_EMBEDDINGS: dict[str, Schema] = {
    "input": _ITEMS,
    "model": _optional(
        "string",
        "Name of an embedding model. The part after its last slash is enough. It may be missing if there is one.",
    ),
    "dimensions": _optional(
        "integer",
        "How many dimensions to keep, from the first on. Vectors that the model normalises are normalised again.",
        minimum=1,
    ),
    "encoding_format": _optional(
        "string",
        "float gives numbers, base64 the bytes of little-endian float32.",
        enum=["float", "base64", None],
        default="float",
    ),
    "user": {"description": "Ignored."},
    "prompt_name": _PROMPT,
}

_FORM_INPUT: Schema = {
    "anyOf": [_STRING, {"type": "string", "contentMediaType": "application/octet-stream"}],
    "description": "A text, or an image as a file. Repeat the field for more.",
}

_REQUESTS: dict[str, Schema] = {
    "EmbeddingsRequest": _object(_EMBEDDINGS, required=("input",), closed=True),
    "EmbeddingsForm": _object({**_EMBEDDINGS, "input": list_of(_FORM_INPUT)}, required=("input",), closed=True),
    "EmbedRequest": _object(
        {
            "inputs": _ITEMS,
            "normalize": _optional("boolean", "Scale each vector to length 1.", default=True),
            "truncate": _TRUNCATE,
            "truncation_direction": _DIRECTION,
            "prompt_name": _PROMPT,
            "dimensions": _optional("integer", "How many dimensions to keep, from the first on.", minimum=1),
            "model": _MODEL,
            "options": _OPTIONS,
        },
        required=("inputs",),
        closed=True,
    ),
    "SimilarityRequest": _object(
        {
            "inputs": _object(
                {"source_sentence": _STRING, "sentences": list_of(_STRING, minItems=1)},
                required=("source_sentence", "sentences"),
                closed=True,
            ),
            "parameters": {
                "anyOf": [
                    _object(
                        {"truncate": _TRUNCATE, "truncation_direction": _DIRECTION, "prompt_name": _PROMPT}, closed=True
                    ),
                    {"type": "null"},
                ]
            },
            "model": _MODEL,
            "options": _OPTIONS,
        },
        required=("inputs",),
        closed=True,
    ),
    "RerankRequest": _object(
        {
            "query": _STRING,
            "texts": list_of(_STRING, minItems=1),
            "truncate": _TRUNCATE,
            "truncation_direction": _DIRECTION,
            "raw_scores": _RAW_SCORES,
            "return_text": _optional("boolean", "Give the texts back.", default=False),
            "model": _RERANKER,
        },
        required=("query", "texts"),
        closed=True,
    ),
    "DocumentsRequest": _object(
        {
            "query": _STRING,
            "documents": list_of({"anyOf": [_STRING, _object({"text": _STRING}, required=("text",))]}, minItems=1),
            "model": _optional(
                "string",
                "Name of a reranker. The part after its last slash is enough. It may be missing if there is one.",
            ),
            "top_n": _optional("integer", "How many documents to return. Without it, all.", minimum=1),
            "return_documents": _optional("boolean", "Give the documents back.", default=False),
            "max_tokens_per_doc": _optional("integer", "At least what the model reads. It has no effect.", minimum=1),
            "raw_scores": _RAW_SCORES,
        },
        required=("query", "documents"),
        closed=True,
    ),
    "PredictRequest": _object(
        {
            "inputs": {
                "anyOf": [_PAIR, list_of(_PAIR, minItems=1)],
                "description": "A pair of texts, or a list of pairs.",
            },
            "truncate": _TRUNCATE,
            "truncation_direction": _DIRECTION,
            "raw_scores": _RAW_SCORES,
            "model": _optional("string", "Name of a cross-encoder. Without it, the first one."),
        },
        required=("inputs",),
        closed=True,
    ),
    "TokenizeRequest": _object(
        {
            "inputs": {"anyOf": [_STRING, list_of(_STRING, minItems=1)]},
            "add_special_tokens": _optional("boolean", "Show the special tokens around the text too.", default=True),
            "prompt_name": _optional("string", "Name of the prompt before each text. Without it, none."),
            "model": _MODEL,
        },
        required=("inputs",),
        closed=True,
    ),
}

_USAGE = _answer({"prompt_tokens": _WHOLE, "total_tokens": _WHOLE})
_INDEX: Schema = {"type": "integer", "description": "Index of the text in the request."}
_LABEL_IDS = _answer({"id2label": _object({}), "label2id": _object({})})
_MODEL_FACTS: dict[str, Schema] = {
    "id": _STRING,
    "object": {"const": "model"},
    "created": {"type": "integer", "description": "When the server started, in seconds since 1970."},
    "owned_by": _STRING,
    "max_seq_length": {"type": "integer", "description": "Most tokens of a text, or of a pair, that the model reads."},
    "dtype": _STRING,
}

_ANSWERS: dict[str, Schema] = {
    "EmbeddingsAnswer": _answer(
        {
            "object": {"const": "list"},
            "data": list_of(
                _answer(
                    {
                        "object": {"const": "embedding"},
                        "index": _WHOLE,
                        "embedding": {"anyOf": [list_of(_NUMBER), _STRING]},
                    }
                )
            ),
            "model": _STRING,
            "usage": _USAGE,
        }
    ),
    "Model": {"anyOf": [schema_of("EmbeddingModel"), schema_of("CrossEncoderModel")]},
    "EmbeddingModel": _answer(
        {
            **_MODEL_FACTS,
            "task": {"const": "embed"},
            "dimension": _WHOLE,
            "modalities": list_of({"enum": ["text", "image"]}),
            "prompt_names": list_of(_STRING),
            "similarity": {"enum": ["cosine", "dot", "euclidean", "manhattan"]},
            "normalized": {"type": "boolean", "description": "Whether the model's vectors have length 1."},
        }
    ),
    "CrossEncoderModel": _answer(
        {
            **_MODEL_FACTS,
            "task": {"const": "rank"},
            "labels": list_of(_STRING, description="What the scores of a pair stand for. A reranker has one label."),
            "activation_fn": {"enum": ["identity", "sigmoid"], "description": "The model's own. No route applies it."},
        }
    ),
    "RankedText": _object(
        {"index": _INDEX, "score": _NUMBER, "text": {"type": "string", "description": "If return_text."}},
        required=("index", "score"),
    ),
    "RankedDocuments": _object(
        {
            "object": {"const": "rerank"},
            "id": {"type": "string", "description": "The id of the request. The log has it too."},
            "model": _STRING,
            "results": list_of(
                _object(
                    {
                        "index": _INDEX,
                        "relevance_score": _NUMBER,
                        "document": {
                            "anyOf": [_TEXT_OBJECT, _STRING],
                            "description": "If return_documents. A string at /rerank.",
                        },
                    },
                    required=("index", "relevance_score"),
                )
            ),
            "usage": _USAGE,
            "meta": _answer(
                {"api_version": _answer({"version": _STRING}), "tokens": _answer({"input_tokens": _WHOLE})}
            ),
        },
        required=("object", "id", "model", "results", "usage"),
    ),
    "Label": _answer({"score": _NUMBER, "label": _STRING}),
    "ModelList": _answer({"object": {"const": "list"}, "data": list_of(schema_of("Model"))}),
    "Token": _answer(
        {
            "id": _WHOLE,
            "text": _STRING,
            "special": _FLAG,
            "start": _optional("integer", "First byte in the UTF-8 of the text. null for a special token."),
            "stop": _optional("integer", "The byte after the last one."),
        }
    ),
    "Info": _answer(
        {
            "model_id": _STRING,
            "model_sha": {"type": ["string", "null"]},
            "model_dtype": _STRING,
            "served_model_name": _STRING,
            "model_type": {
                "anyOf": [
                    _answer({"embedding": _answer({"pooling": _STRING})}),
                    _answer({"reranker": _LABEL_IDS}),
                    _answer({"classifier": _LABEL_IDS}),
                ]
            },
            "max_concurrent_requests": _WHOLE,
            "max_input_length": _WHOLE,
            "max_batch_tokens": _WHOLE,
            "max_batch_requests": {"type": "null"},
            "max_client_batch_size": _WHOLE,
            "auto_truncate": _FLAG,
            "tokenization_workers": _WHOLE,
            "version": _STRING,
            "sha": {"type": "null"},
            "docker_label": {"type": "null"},
            "models": list_of(_STRING),
        }
    ),
    "Status": _answer({"status": {"enum": ["alive", "starting", "ready", "stopping"]}}),
    "OpenAIError": _answer(
        {
            "error": _answer(
                {
                    "message": _STRING,
                    "type": _STRING,
                    "param": _optional("string", "The key that is wrong."),
                    "code": {"type": "string", "description": "A short word that stays the same between versions."},
                }
            )
        }
    ),
    "CohereError": _answer(
        {
            "message": _STRING,
            "detail": {"type": "string", "description": "The same. Clients of Jina read it."},
            "code": {"type": "string", "description": "A short word that stays the same between versions."},
        }
    ),
    "TeiError": _answer(
        {
            "error": _STRING,
            "error_type": {"enum": ["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]},
        }
    ),
}

SCHEMAS: dict[str, Schema] = _REQUESTS | _ANSWERS
