"""The command line, `embedder`."""
