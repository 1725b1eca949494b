"""Describe the families of models. Each family has a file, and `table` lists them. Several stages use it."""
