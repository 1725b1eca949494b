"""Families of models: one file for each, and the table of all in `table`. Several stages ask them."""
