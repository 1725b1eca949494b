"""Stage 1: find a checkpoint, and read what it says of itself. Nothing in it is ever run."""
