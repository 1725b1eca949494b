"""Embeddings as a Google Cloud Run function. Its model is the artifact `model` beside this file."""

from __future__ import annotations

from pathlib import Path

import functions_framework
from flask import Request

from embedder.functions import Function, Limits

# What `gcloud functions deploy --timeout` has by default. Give both the same value.
TIMEOUT_S = 60

# The platform has checked what it deploys, so no digests are computed, and nothing is written to a disk that is lost.
function = Function(Path(__file__).with_name("model"), verify=False, limits=Limits(timeout_s=TIMEOUT_S))
# The platform sends requests only when the server has started, so no request waits for the model.
function.load()


@functions_framework.http
def embed(request: Request) -> tuple[bytes, int, dict[str, str]]:
    """Answer a request of HTTP."""
    answer = function.answer(request.get_data(), method=request.method)
    return answer.body, answer.status, answer.headers
