"""Make a smaller model from a larger one."""
