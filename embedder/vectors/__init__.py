"""What is done with vectors, on NumPy alone: how near they are, search, mining, fewer bits, and an index that lasts.

`similarity`, `topk` and `hamming` are what the others are made of. Nothing here knows models; the names that users call
are those of `embedder` itself.
"""
