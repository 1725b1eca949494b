"""The pages in docs/frameworks: the other tests here run their examples.

docs/serve.md has the clients of servers, docs/vector-stores.md the vector stores without a class of embedder.
"""

import re
import tomllib
from pathlib import Path

from tests.pages import code_blocks

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/frameworks").glob("*.md"))


def test_every_framework_has_a_page_with_an_install_line_and_a_tested_example():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in extras["frameworks"]}
    names -= set(re.findall(r"`(?:pip install )?([\w-]+)`", (ROOT / "docs/serve.md").read_text(encoding="utf-8")))
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    index = (ROOT / "docs/frameworks/index.md").read_text(encoding="utf-8")
    installed = []
    for page in PAGES:
        if page.stem != "index":
            assert f"({page.name})" in index
            assert f'check_page("{page.stem}")' in tests
            (command,) = [block.code for block in code_blocks(page) if block.language == "console"]
            installed.append(re.fullmatch(r'pip install "embedder-onnx\[cpu\]" ([\w-]+)', command)[1])
    recipes = [block.code for block in code_blocks(ROOT / "docs/vector-stores.md") if block.language == "console"]
    assert names - set(" ".join(recipes).split()) <= set(installed) <= names
    assert len(set(installed)) == len(installed)
