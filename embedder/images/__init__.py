"""Images: what counts as one, reading it, and preparing it for a model. The only folder that knows Pillow."""
