"""Recognise images, read them, and prepare them for a model. Only this folder knows Pillow."""
