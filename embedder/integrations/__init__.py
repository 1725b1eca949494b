"""Models of embedder in other frameworks. Each module needs its framework, and nothing here imports one by itself.

- `saved_model`: what the modules share: a model with its options, as frameworks save and copy it.
- `text_model`: the same for queries and documents.
- `table_encoder`: the same for tables of Arrow, as jobs on clusters have them.
- `langchain`: `EmbedderEmbeddings`.
- `llama_index`: `EmbedderEmbedding`.
- `haystack`: `EmbedderTextEmbedder` and `EmbedderDocumentEmbedder`.
- `chroma`: `EmbedderEmbeddingFunction`.
- `lancedb`: `EmbedderFunction`, registered as "embedder".
- `bertopic`, `keybert`: `EmbedderBackend`.
- `mteb`: `EmbedderEncoder`.
- `ray`: `EncodeBatches` and `EncodeFiles`; `sent_model` sends a model to the nodes of a cluster.
- `spark`: `SparkEncoder`.

Qdrant takes the vectors as they are. docs/frameworks/ has a page for each, and docs/jobs/ for those of clusters.
"""
