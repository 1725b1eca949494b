"""Stage 8: upload an artifact to the Hub, with a model card."""
