"""Stage 1: find a checkpoint, and read its settings and weights. No code in a checkpoint is ever run."""
