"""Stage 5: the graph in each dtype. One file a dtype; `convert` makes those that are wanted."""
