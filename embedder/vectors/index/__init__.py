"""The index: vectors with ids, texts and metadata, in memory or mapped from a file.

- `vector_index`: the public class.
- `entries`: what callers give beside vectors, and the entries and hits that they get.
- `ids`, `items`, `metadata`, `filters`: turn what callers give into a form that can be kept, or refuse it.
- `models`: whether the model of an index made the vectors of a file.
- `codecs`: how vectors are kept and compared, with one class for each precision.
- `columns`: arrays and strings with a row for each entry.
- `storage`: rows, ids and deletions. It is safe to share between threads.
- `header`, `file_format`, `values`: the file, its versions, and the check of what it has.
- `saved_files`: keeps `save` from undoing what another process has saved.
"""
