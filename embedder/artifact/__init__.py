"""Artifacts, the exported models on disk: find one, fetch one from the Hub, read its manifest."""
