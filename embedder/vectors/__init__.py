"""Work with vectors: similarity, search, mining, quantisation, and indexes.

These modules import NumPy, `embedder.errors`, `embedder.options` and `embedder.common`. They need no model. `simd`
imports NumKong if it is installed. The other modules build on `arrays`, `similarity`, `topk`, `scoring` and `hamming`.
Users import all public names from `embedder`.
"""
