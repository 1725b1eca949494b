"""What is done with vectors: similarity, search, mining, quantisation, and an index in a file.

These modules import NumPy, `embedder.errors`, `embedder.options` and `embedder.common`, and know no models. `arrays`,
`similarity`, `topk`, `scoring` and `hamming` are the base of the others. Users import all public names from `embedder`.
"""
