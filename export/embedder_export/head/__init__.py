"""Stage 4: pooling and what follows it, as nodes of the graph. The runtime need not know them."""
