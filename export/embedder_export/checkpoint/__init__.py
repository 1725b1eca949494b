"""Stage 1: read what a checkpoint says of itself."""
