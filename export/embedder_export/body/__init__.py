"""Stage 3: turn each transformer into a graph."""
