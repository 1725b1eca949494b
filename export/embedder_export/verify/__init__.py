"""Stage 7: compare the artifact with a reference."""
