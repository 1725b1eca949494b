"""Small pieces that every other folder may use."""
