"""The index: vectors with ids, in memory or mapped from a file.

- `vector_index`: the public class.
- `items`: what callers add or search for, as vectors.
- `codecs`: how vectors are kept and compared, one class for each precision.
- `storage`: rows, ids and deletions, safe to use from many threads.
- `file_format`: the file, its header and its versions.
"""
