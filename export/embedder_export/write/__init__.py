"""Stage 6: the artifact's files and its manifest, in the place of the output when everything has passed."""
