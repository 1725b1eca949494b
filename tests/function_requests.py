"""A request, a small function, and messages that all adapters of serverless functions share."""

import json

from embedder.functions import Function, Limits
from tests.tiny import write_tiny_artifact

REQUEST = {"inputs": ["cat", "dog"], "truncate_dim": 3}
BODY = json.dumps(REQUEST)
BODY_BYTES = BODY.encode()
NO_BODY = 'there is no body. Send a JSON object such as {"inputs": ["a text"]}'
WRONG_METHOD = "the method should be POST, with a JSON object as the body"
TOO_LARGE = "the body has more than 200 bytes, which is the limit. Send fewer texts at a time"


def small_function(directory):
    """Write a tiny artifact into `directory`. Return its function, which takes bodies of up to 200 bytes."""
    return Function(write_tiny_artifact(directory / "tiny"), limits=Limits(max_body_bytes=200))


def message_of(body):
    """Return the message of an error answer."""
    return json.loads(body)["error"]["message"]
