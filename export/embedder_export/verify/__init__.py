"""Stage 7: the artifact's vectors, as the runtime computes them, beside those of a reference."""
