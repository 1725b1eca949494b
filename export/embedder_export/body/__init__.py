"""Stage 3: turn each transformer into a graph, by a native builder or by tracing."""
