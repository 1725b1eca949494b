"""Stage 5: make the graphs of each dtype. Every dtype has its own file, and `convert` calls them."""
