"""The index: vectors with ids, in memory or mapped from a file.

- `vector_index`: the public class.
- `items`: turns what callers add or search for into vectors.
- `codecs`: how vectors are kept and compared, with one class for each precision.
- `storage`: rows, ids and deletions. It is safe to share between threads.
- `file_format`: the file, its header and its versions.
"""
