"""Indexes of faiss and usearch with the methods of `VectorIndex`, for collections that are too large for it.

Each class passes checked vectors and ids to the library. The library is imported when an index is made or loaded. The
attribute `index` is the library's own object.

Each index is safe to share between threads. Several searches run at the same time. `add` and `delete` wait until no
other call is running. Calls on the library's own object are not protected.

- `library_index`: what both classes share.
- `faiss_index`: `FaissIndex`. Its default kind searches exactly.
- `usearch_index`: `UsearchIndex`. Its search is approximate.
"""
