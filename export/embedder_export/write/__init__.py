"""Stage 6: write the artifact's files and its manifest. They replace the output after all checks have passed."""
