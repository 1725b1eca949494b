"""Stage 4: add pooling and what follows it to the graph."""
