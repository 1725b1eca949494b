"""Run inputs through a graph: windows, tokens or pixels, batches, runs, outputs in the caller's order."""
