"""From inputs to the outputs of a graph: windows, tokens or pixels, batches, runs, the caller's order."""
