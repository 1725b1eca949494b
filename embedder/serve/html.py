"""Pages of HTML. Each is one file, and its content security policy lets run what the file has, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import Response

_BLOCKS = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


def read_page(name: str) -> Response:
    """Return the page in the file `name` beside this module. One response may be sent any number of times.

    The scripts and styles are inside the file, in elements without attributes. Their digests are in the policy.

    Example:
        >>> read_page("api_page.html").headers["referrer-policy"]
        'no-referrer'
    """
    content = Path(__file__).with_name(name).read_text(encoding="utf-8")
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for match in _BLOCKS.finditer(content):
        digest = base64.b64encode(hashlib.sha256(match[2].encode()).digest()).decode("ascii")
        allowed[match[1]].append(f"'sha256-{digest}'")
    policy = _POLICY + "".join(f"; {kind}-src {' '.join(digests)}" for kind, digests in allowed.items() if digests)
    return Response(content, media_type="text/html", headers={**_HEADERS, "Content-Security-Policy": policy})
