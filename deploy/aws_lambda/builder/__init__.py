"""Build the zip of an AWS Lambda function: `make lambda MODEL=all-MiniLM-L6-v2`.

The steps, and the modules that take them: choose the Python and the architecture (`target`), install the wheels
(`packages`), leave out what a function does not need (`needless`, `elf_file`, `bytecode`), add the model (`model`),
write the zip (`archive`), and call the handler that is in it (`trial`). `pipeline` is the flow.
"""
