"""Embeddings as an Azure function. Its model is the artifact `model` beside this file."""

from __future__ import annotations

from pathlib import Path

import azure.functions as func

from embedder.functions import Function, Limits

# Azure's load balancer gives up on a request after 230 seconds, whatever `functionTimeout` in host.json says.
TIMEOUT_S = 220

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
# The platform has checked what it deploys, so no digests are computed, and nothing is written to a disk that is lost.
function = Function(Path(__file__).with_name("model"), verify=False, limits=Limits(timeout_s=TIMEOUT_S))
# The platform imports this module when it starts a worker, so no request waits for the model.
function.load()


@app.route(route="embed")
def embed(req: func.HttpRequest) -> func.HttpResponse:
    """Answer a request of HTTP."""
    answer = function.answer(req.get_body(), method=req.method)
    return func.HttpResponse(answer.body, status_code=answer.status, headers=answer.headers)
