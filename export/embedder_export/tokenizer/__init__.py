"""The tokenizer stage: read the checkpoint's tokenizer as transformers sets it up, and say how long a text may be.

`convert` is the stage. It reads the tokenizer with `read`: natively where `classes` knows its class, else by
transformers. Then it checks it and sets the limit with `limits`.

`native` puts a tokenizer together from its files: `settings` reads the JSON files, `transformers5` rewrites what only
transformers 5 reads, `tokens` adds the special tokens. `classes` has one file for each kind of tokenizer class.
"""
