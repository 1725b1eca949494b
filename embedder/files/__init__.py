"""Vectors in files: read texts, encode them, write the vectors, and go on after a kill."""
