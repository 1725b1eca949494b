"""Stage 2: convert the checkpoint's tokenizer, with transformers' settings, and find the limit of a text's tokens.

`convert` runs the stage. `native` reads the tokenizer if `classes` knows its class. Otherwise `with_transformers` reads
it. `limits` checks the result against the model.

`native` builds a tokenizer from the checkpoint's files. `settings` reads the JSON files. `transformers5` rewrites
settings that only transformers 5 reads. `tokens` adds the special tokens. `classes` has a file for each kind of
tokenizer class.
"""
