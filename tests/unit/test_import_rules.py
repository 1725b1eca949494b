"""Who may import what. The tables are the architecture; the tests read every file and hold it against them.

Imports under `if TYPE_CHECKING:` are free, as they have no effect when the program runs.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Rule:
    """What the modules under `where` may import besides Python's own library. The longest `where` that fits counts.

    Attributes:
        where: a module or a package.
        own: modules and packages of the runtime, without "embedder."; `encoder` stands for the package itself too.
        packages: other distributions.
        lazy: other distributions that are imported only inside a function, so that only the call that needs them loads
            them.
        exact: whether the rule is of the module `where` alone, and not of what lies in it.
    """

    where: str
    own: str = ""
    packages: str = ""
    lazy: str = ""
    exact: bool = False


PUBLIC = (
    "activations common cross_encoder encoder errors hints inputs multi_vector_encoder options ranked results "
    "sparse_encoder vectors"
)
INTEGRATION = f"{PUBLIC} integrations"
ENGINE = "artifact backends common engine errors hints images inputs options"

RUNTIME = (
    # Pieces.
    Rule("embedder.errors", own="common.escapes"),
    Rule("embedder.common", own="common errors", packages="numpy"),
    Rule("embedder.common.progress", lazy="tqdm"),
    Rule("embedder.common.tokenizer_file", own="common", lazy="tokenizers"),
    # What a request is made of.
    Rule("embedder.hints"),
    Rule("embedder.options", own="common errors hints"),
    Rule("embedder.images", own="artifact.image_settings common errors images", packages="numpy", lazy="PIL"),
    Rule("embedder.inputs", own="common errors images", packages="numpy"),
    # What a request runs through.
    Rule("embedder.artifact", own="artifact common errors"),
    Rule("embedder.artifact.hub", own="artifact common errors", lazy="huggingface_hub"),
    Rule("embedder.artifact.hub_listing", own="common", lazy="huggingface_hub"),
    Rule("embedder.artifact.hub_errors", own="artifact.hub_access errors", lazy="huggingface_hub"),
    Rule("embedder.artifact.first_use", own="artifact common.progress errors", lazy="filelock"),
    Rule("embedder.backends", own="artifact backends common errors", packages="numpy", lazy="onnxruntime"),
    Rule("embedder.engine", own=ENGINE, packages="numpy"),
    Rule(
        "embedder.engine.tokenizer",
        own="common engine.frame engine.token_table engine.word_ids errors inputs",
        packages="numpy",
        lazy="tokenizers",
    ),
    Rule("embedder.results", own="common errors options vectors", packages="numpy"),
    Rule("embedder.encoding", own="engine errors inputs options results", packages="numpy"),
    Rule("embedder.activations", own="common options", packages="numpy"),
    Rule("embedder.loaded_model", own=ENGINE),
    Rule("embedder.tokenizing", own="common engine errors inputs loaded_model options", packages="numpy"),
    Rule("embedder.encoder", own=f"{ENGINE} activations encoding results tokenizing vectors", packages="numpy"),
    Rule("embedder.ranked", packages="numpy"),
    Rule("embedder.cross_encoder", own=f"{ENGINE} activations encoding loaded_model ranked results", packages="numpy"),
    Rule("embedder.query_weights", own="artifact common engine errors vectors", packages="numpy"),
    Rule("embedder.sparse_encoder", own=f"{ENGINE} loaded_model query_weights results vectors", packages="numpy"),
    Rule("embedder.multi_vector_encoder", own=f"{ENGINE} loaded_model ranked results vectors", packages="numpy"),
    # What is done with vectors. It needs no model.
    Rule("embedder.vectors", own="common errors options vectors", packages="numpy"),
    Rule("embedder.vectors.simd", own="common", packages="numpy", lazy="numkong"),
    Rule("embedder.vectors.sparse", own="common errors vectors", packages="numpy", lazy="scipy"),
    Rule("embedder.vectors.adapters", own="common errors vectors", packages="numpy", lazy="faiss usearch"),
    # Surfaces. They stand on the public API. The commands that look into an artifact have rules of their own.
    Rule("embedder", own=f"{PUBLIC} files kept_models pool", exact=True),
    Rule("embedder.compat", own=f"{PUBLIC} compat pool", packages="numpy"),
    Rule("embedder.compat.tensors", own="common compat errors", packages="numpy", lazy="torch"),
    Rule("embedder.compat.numpy_tensor", own="compat errors", packages="numpy", lazy="torch"),
    Rule("embedder.compat.loading", own="artifact.store common compat errors"),
    Rule("embedder.compat.model_members", own=f"{PUBLIC} artifact.hub_access artifact.locate compat"),
    Rule("embedder.functions", own=f"{PUBLIC} functions"),
    Rule("embedder.kept_models", own=f"{PUBLIC} artifact.hub_access"),
    Rule("embedder.pool", own=f"{PUBLIC} artifact.hub_access artifact.manifest backends", packages="numpy"),
    # Each module of an integration is imported by the framework's users alone, so it imports the framework.
    Rule("embedder.integrations", own=f"{PUBLIC} artifact.hub_access integrations kept_models", packages="numpy"),
    Rule("embedder.integrations.bertopic", own=INTEGRATION, packages="bertopic"),
    Rule("embedder.integrations.chroma", own=INTEGRATION, packages="chromadb"),
    Rule("embedder.integrations.haystack", own=INTEGRATION, packages="haystack"),
    Rule("embedder.integrations.keybert", own=INTEGRATION, packages="keybert"),
    Rule("embedder.integrations.lancedb", own=INTEGRATION, packages="lancedb pydantic"),
    Rule("embedder.integrations.langchain", own=INTEGRATION, packages="langchain_core"),
    Rule("embedder.integrations.llama_index", own=INTEGRATION, packages="llama_index"),
    Rule("embedder.integrations.ray", own=f"{INTEGRATION} files", packages="pyarrow ray"),
    Rule("embedder.integrations.spark", own=f"{INTEGRATION} files", packages="pandas pyarrow pyspark"),
    Rule("embedder.integrations.sent_model", own="artifact.manifest common errors", packages="numpy", lazy="filelock"),
    Rule("embedder.integrations.table_encoder", own=f"{INTEGRATION} files"),
    Rule("embedder.integrations.mteb", own=f"{INTEGRATION} kept_models", packages="mteb torch"),
    # Vectors in files.
    Rule("embedder.files", own="common errors files"),
    Rule("embedder.files.arrow", own="common errors files.formats", lazy="pyarrow"),
    Rule("embedder.files.formats", own="common errors files options", packages="numpy"),
    Rule("embedder.files.outputs", own="common errors files options"),
    Rule("embedder.files.ranges", own="files vectors", packages="numpy"),
    Rule("embedder.files.inputs", own="common errors files.object_store files.parquet"),
    Rule("embedder.files.directories", own="errors images.sources"),
    Rule("embedder.files.object_store", own="common errors", lazy="pyarrow"),
    Rule("embedder.files.record_tables", own="errors files", lazy="pyarrow"),
    Rule("embedder.files.parquet", own="common errors files", lazy="pyarrow"),
    Rule("embedder.files.encode_to_file", own=f"{PUBLIC} files kept_models"),
    Rule("embedder.cli", own=f"{PUBLIC} cli files images.sources", packages="numpy"),
    Rule("embedder.cli.map", own=f"{PUBLIC} cli files", packages="numpy", lazy="umap"),
    Rule("embedder.cli.bench_server", own="cli common errors files serve.access serve.load_test serve.sample_texts"),
    Rule("embedder.cli.info", own=f"{PUBLIC} cli artifact backends engine"),
    Rule("embedder.cli.prepack", own=f"{PUBLIC} cli artifact backends"),
    Rule("embedder.cli.pull", own=f"{PUBLIC} cli artifact engine"),
    Rule("embedder.cli.list_models", own=f"{PUBLIC} cli artifact"),
    Rule("embedder.cli.remove", own=f"{PUBLIC} cli artifact backends"),
    Rule("embedder.cli.verify", own=f"{PUBLIC} cli artifact backends engine", packages="numpy"),
    Rule("embedder.cli.serve", own="cli.commands common errors serve"),
    # The server. `embedder serve` imports it when it runs.
    Rule("embedder.serve", own="common errors serve"),
    Rule("embedder.serve.errors", own="errors"),
    Rule("embedder.serve.settings", own="common errors"),
    # What runs together and when. It knows nothing of HTTP.
    Rule("embedder.serve.batch_choice"),
    Rule("embedder.serve.fair_queue"),
    Rule("embedder.serve.work_rate"),
    Rule("embedder.serve.batch_model", own="common inputs", packages="numpy"),
    Rule("embedder.serve.jobs", own="inputs serve.fair_queue", packages="numpy"),
    Rule(
        "embedder.serve.compute",
        own="common inputs serve.batch_choice serve.batch_model serve.fair_queue serve.jobs",
    ),
    Rule(
        "embedder.serve.batcher",
        own="common errors inputs serve.batch_model serve.compute serve.errors serve.jobs serve.work_rate",
        packages="numpy",
    ),
    Rule("embedder.serve.models", own="artifact.hub_access common errors serve.errors"),
    Rule("embedder.serve.loading", own="artifact common cross_encoder encoder serve"),
    # The interfaces: from a body to the answer.
    Rule(
        "embedder.serve.requests", own="common serve.bodies serve.errors serve.images serve.settings", packages="orjson"
    ),
    Rule("embedder.serve.images", own="common errors images serve.errors"),
    Rule("embedder.serve.embedding", own="common errors inputs options results serve", packages="numpy"),
    Rule("embedder.serve.scoring", own="common errors serve", packages="numpy"),
    Rule("embedder.serve.answers", own="common", packages="numpy orjson starlette"),
    Rule("embedder.serve.openai_api", own="common serve", packages="orjson starlette"),
    Rule("embedder.serve.tei_api", own="activations common encoder serve vectors", packages="orjson starlette"),
    Rule("embedder.serve.cohere_api", own="activations common serve", packages="starlette"),
    Rule("embedder.serve.openapi", own="encoder serve", packages="starlette"),
    Rule("embedder.serve.schemas"),
    Rule("embedder.serve.html", packages="starlette"),
    Rule("embedder.serve.pages", own="serve.html", packages="starlette"),
    # What is around them: the application, and the processes.
    Rule("embedder.serve.app", own="serve", packages="starlette"),
    Rule("embedder.serve.refusals", own="serve errors", packages="starlette"),
    Rule("embedder.serve.access_log", own="common.escapes"),
    Rule("embedder.serve.metrics", packages="prometheus_client"),
    Rule("embedder.serve.closing"),
    Rule("embedder.serve.answer_transport"),
    Rule(
        "embedder.serve.protocol",
        own="serve.answer_transport serve.closing serve.exchange serve.settings",
        packages="uvicorn",
    ),
    Rule("embedder.serve.server", own="errors serve", packages="uvicorn uvloop"),
    # The load to measure a server needs no other package.
    Rule("embedder.serve.access", own="errors serve.errors"),
    Rule("embedder.serve.http_client"),
    Rule("embedder.serve.load_test", own="common errors serve.http_client"),
    Rule("embedder.serve.sample_texts"),
    Rule("embedder.__main__", own="cli"),
)

# The exporter writes the manifest by the runtime's dataclasses, and tries its work with the runtime.
OF_RUNTIME = (
    "artifact backends common cross_encoder encoder engine errors images inputs multi_vector_encoder options results "
    "sparse_encoder vectors"
)
ONNX = "numpy onnx onnx_ir onnxruntime PIL safetensors tokenizers"
# The extra [torch].
TORCH = "model2vec optimum sentence_transformers sentencepiece torch transformers"

EXPORTER = (
    Rule("embedder_export", own=OF_RUNTIME, packages=ONNX, lazy=TORCH),
    Rule("embedder_export.publish", own=OF_RUNTIME, lazy="huggingface_hub"),
    # Imported only where a model is traced.
    Rule("embedder_export.body.traced", own=OF_RUNTIME, packages=f"{ONNX} {TORCH}"),
)

# Words that only modules whose names begin so may have in a string: elsewhere ask the device, never its name.
WORDS = {"cuda": "embedder.backends.cuda", "CUDAExecutionProvider": "embedder.backends.cuda"}
# Modules of Python's own library that one module alone may import.
STANDARD_MODULES = {"multiprocessing": "embedder.pool"}


@dataclass(frozen=True)
class Import:
    """An import statement: the module, whether it is inside a function, and where it stands."""

    module: str
    inside_function: bool
    line: int


def modules(directory: Path) -> dict[str, Path]:
    """Every module under `directory`, by its full name."""
    found = {}
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules(ROOT / "embedder")
EXPORTER_MODULES = modules(ROOT / "export" / "embedder_export")
TEST_MODULES = modules(ROOT / "tests")
RUNTIME_TESTS = [name for name in TEST_MODULES if name.startswith(("tests.unit.", "tests.conftest"))]


def imports_of(tree: ast.AST, known: dict[str, Path]) -> Iterator[Import]:
    """The imports of a module. `from package import name` is an import of `package.name` where that is a module."""
    yield from _imports(tree, known, inside_function=False)


def _imports(node: ast.AST, known: dict[str, Path], *, inside_function: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = node.orelse
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, inside_function, child.lineno)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports have full names here"
            names = (f"{child.module}.{alias.name}" for alias in child.names)
            for module in sorted({name if name in known else str(child.module) for name in names}):
                yield Import(module, inside_function, child.lineno)
        elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith(("import_optional", "import_module")):
            for argument in child.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield Import(argument.value, inside_function, child.lineno)
        deeper = inside_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, known, inside_function=deeper)


def is_under(module: str, places: list[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def rule_of(module: str, rules: tuple[Rule, ...]) -> Rule:
    fitting = [rule for rule in rules if module == rule.where or (not rule.exact and is_under(module, [rule.where]))]
    assert fitting, f"{module} has no rule. Add one to the table in tests/unit/test_import_rules.py"
    return max(fitting, key=lambda rule: len(rule.where))


def problem_of(item: Import, name: str, rule: Rule) -> str | None:
    """Which rule the import breaks, and what to do; None where it breaks none."""
    package = item.module.partition(".")[0]
    own = [f"embedder.{place}" for place in rule.own.split()]
    if package == "embedder_export" and name.startswith("embedder_export"):
        return None
    if package in ("embedder", "embedder_export"):
        if is_under(item.module, own) or (item.module == "embedder" and "embedder.encoder" in own):
            return None
        return f"{rule.where} may import of embedder: {rule.own or 'nothing'}. Move what it needs, or pass it in"
    if package in STANDARD_MODULES:
        return None if name == STANDARD_MODULES[package] else f"only {STANDARD_MODULES[package]} may. Use it from there"
    if package in rule.lazy.split():
        return None if item.inside_function else "only inside a function. Import it where it is needed"
    if package in rule.packages.split() or package in sys.stdlib_module_names:
        return None
    return f"{rule.where} may import {rule.packages or 'no package'}. Call the module that may import {package}"


def problems(name: str, tree: ast.AST, rules: tuple[Rule, ...], known: dict[str, Path]) -> str:
    """Every import of the module `name` that breaks a rule, one a line."""
    rule = rule_of(name, rules)
    found = [(item, problem_of(item, name, rule)) for item in imports_of(tree, known)]
    return "\n".join(
        f"{name}, line {item.line}, imports {item.module}: {problem}" for item, problem in found if problem is not None
    )


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("name", MODULES)
def test_runtime_module_imports_what_its_rule_allows(name):
    found = problems(name, parse(MODULES[name]), RUNTIME, MODULES)
    assert not found, found


@pytest.mark.parametrize("name", EXPORTER_MODULES)
def test_exporter_module_imports_what_its_rule_allows(name):
    found = problems(name, parse(EXPORTER_MODULES[name]), EXPORTER, EXPORTER_MODULES | MODULES)
    assert not found, found


@pytest.mark.parametrize("rule", RUNTIME + EXPORTER, ids=lambda rule: rule.where)
def test_rule_is_of_a_module_that_is_there(rule):
    assert rule.where in MODULES | EXPORTER_MODULES, f"{rule.where} is gone: remove its rule"


@pytest.mark.parametrize("rule", RUNTIME, ids=lambda rule: rule.where)
def test_rule_allows_no_package_that_nobody_imports(rule):
    named = {
        item.module.partition(".")[0]
        for name, path in MODULES.items()
        if rule_of(name, RUNTIME) is rule
        for item in imports_of(parse(path), MODULES)
    }
    assert set(rule.packages.split()) | set(rule.lazy.split()) <= named, "remove what is not imported from the rule"


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Private names that are imported, and private attributes of anything but `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            path = str(node.module).split(".")
            yield from (f"line {node.lineno}: {name}" for name in (*names, *path) if is_private(name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize("name", EXPORTER_MODULES)
def test_exporter_uses_no_private_name(name):
    """Of the runtime above all: the two are released apart. Make the name public in the runtime, with a docstring."""
    assert list(private_uses(parse(EXPORTER_MODULES[name]))) == []


def test_runtime_tests_and_all_that_they_import_do_without_the_exporter():
    waiting, seen = list(RUNTIME_TESTS), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for item in imports_of(parse(TEST_MODULES[name]), TEST_MODULES):
            assert not is_under(item.module, ["embedder_export"]), (
                f"{name}, line {item.line}, imports {item.module}, and is used by tests of the runtime. "
                "Tests that need the exporter belong in tests/export, tests/parity or tests/end_to_end"
            )
            if item.module in TEST_MODULES:
                waiting.append(item.module)
    assert {"tests.tiny", "tests.conftest", "tests.golden_artifacts", __name__.rpartition("/")[2]} <= seen


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module but docstrings, with its line."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                docstrings.add(id(first.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_one_module_alone_has_each_word():
    users = {word: set() for word in WORDS}
    for name, path in (MODULES | EXPORTER_MODULES).items():
        for line, text in strings(parse(path)):
            for word in WORDS:
                if word in text:
                    users[word].add(name)
                    assert name.startswith(WORDS[word]), (
                        f"{name}, line {line}: ask the device, or say it in other words"
                    )
    assert all(users.values())


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("embedder.errors", "import embedder.common.files", "embedder.errors may import of embedder: common.escapes"),
        ("embedder.vectors.search", "from embedder.engine.engine import Engine", "imports embedder.engine.engine"),
        ("embedder.vectors.search", "from embedder import encoder", "imports embedder.encoder"),
        (
            "embedder.vectors.search",
            "import embedder",
            "imports embedder: embedder.vectors may import of embedder: common",
        ),
        (
            "embedder.inputs",
            "def f():\n    import PIL.Image",
            "line 2, imports PIL.Image: embedder.inputs may import numpy",
        ),
        ("embedder.images.reading", "import PIL", "only inside a function. Import it where it is needed"),
        ("embedder.engine.engine", "import onnxruntime", "Call the module that may import onnxruntime"),
        ("embedder.vectors.topk", "import_optional('faiss', needed_for='x', requirement='y')", "imports faiss"),
        ("embedder.common.cores", "import multiprocessing", "only embedder.pool may. Use it from there"),
        ("embedder.encoder", "import embedder_export", "imports embedder_export"),
        ("embedder.encoder", "def f():\n    from embedder_export import pipeline", "imports embedder_export"),
        ("embedder.cli.main", "from embedder.engine import engine", "imports embedder.engine"),
    ],
)
def test_what_breaks_a_rule_is_found(name, code, message):
    found = problems(name, ast.parse(code), RUNTIME, MODULES)
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("embedder.images.reading", "def f():\n    import PIL"),
        ("embedder.inputs", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PIL.Image import Image"),
        ("embedder.cli.main", "import embedder"),
        ("embedder.pool", "def f():\n    import multiprocessing.process"),
    ],
)
def test_what_keeps_the_rules_is_not_found(name, code):
    assert problems(name, ast.parse(code), RUNTIME, MODULES) == ""


def test_new_module_at_the_top_needs_a_rule():
    with pytest.raises(AssertionError, match=r"embedder\.server has no rule\. Add one to the table"):
        rule_of("embedder.server", RUNTIME)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from embedder.encoder import _load", ["line 1: _load"]),
        ("from embedder._hidden import name", ["line 1: _hidden"]),
        ("model._engine.run()", ["line 1: model._engine"]),
        ("class A:\n    def f(self):\n        return self._x, type(self).__name__", []),
    ],
)
def test_private_uses_are_found(code, found):
    assert list(private_uses(ast.parse(code))) == found
