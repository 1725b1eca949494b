"""Sample texts and images. They time and calibrate graphs, and measure the finished artifact."""
