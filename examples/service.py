"""A service for embeddings: uvicorn --app-dir examples service:app"""

from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import embedder

Text = Annotated[str, Field(max_length=100_000)]


class Texts(BaseModel):
    inputs: Annotated[list[Text], Field(min_length=1, max_length=256)]
    task: Literal["query", "document"] = "document"


class Vectors(BaseModel):
    embeddings: list[list[float]]


@asynccontextmanager
async def lifespan(app: FastAPI):
    with embedder.Embedder("all-MiniLM-L6-v2", dtype="auto") as app.state.model:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
def embed(texts: Texts) -> Vectors:
    model = app.state.model
    encode = model.encode_query if texts.task == "query" else model.encode_document
    return Vectors(embeddings=encode(texts.inputs).tolist())


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    reasons = [{"where": fault["loc"], "what": fault["msg"]} for fault in error.errors()]
    return JSONResponse({"detail": reasons}, status_code=422)
