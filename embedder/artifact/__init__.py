"""The exported model on disk: its manifest, finding it, and fetching it from the Hub."""
