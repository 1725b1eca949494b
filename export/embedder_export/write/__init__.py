"""Stage 6: write the artifact."""
