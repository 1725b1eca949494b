"""Provide sample texts and images. Some of them time and calibrate graphs. Others measure the artifact."""
