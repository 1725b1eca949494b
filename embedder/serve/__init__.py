"""`embedder serve`: models behind HTTP, by the interfaces of OpenAI and of text-embeddings-inference.

`create_app` in `app.py` makes the ASGI application. `server.py` runs it.
"""
