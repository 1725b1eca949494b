"""Stage 5: choose the fastest fp32 graph; make int8 and fp16 graphs of it."""
