"""Stage 7: compare the vectors that the runtime computes from the artifact with a reference's vectors."""
