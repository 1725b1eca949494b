"""Sparse vectors: most of their numbers are 0. They are kept by the places of the others.

vectors.py    `SparseVectors`, as `SparseEncoder` returns them
scores.py     compare them
postings.py   for each place, the vectors that have a number there
index.py      `SparseIndex`: search, save and load
file.py       its file
"""
