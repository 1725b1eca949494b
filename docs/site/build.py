"""Build the site of the documentation: `make docs`.

The pages keep the paths that they have in the repository, so that every relative link works on a code host and here.
The API reference is made of the docstrings. A file of code gets a page that shows it.
"""

import argparse
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

# Without it, the theme prints an advertisement.
os.environ["NO_MKDOCS_2_WARNING"] = "1"

from mkdocs.commands import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**/*.md", "benchmarks/results/*.md")
ASSETS = ("docs/**/*.css", "docs/**/*.js", "docs/**/*.png", "docs/**/*.svg", "benchmarks/results/*.svg")
# Pages link to these files. Their pages have the same name, with `.md` at the end.
SHOWN = ("LICENSE", "examples/*.py", "examples/*.txt")
LANGUAGES = {".py": "python"}
# A range of figures after a median, such as (448-518).
RANGE = re.compile(r"(?<=\([\d.,])([\d.,]*)-(?=[\d.,]+\))")
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")

# The API reference: the title of each page, and the public names on it.
API = {
    "Models": "Embedder CrossEncoder SparseEncoder MultiVectorEncoder encode encode_to_file release_models",
    "Options and results": "EncodeOptions EncodeSettings EncodeResult PredictOptions SparseOptions SparseVectors "
    "MultiVectorOptions RankedDocument Chunk Token TokenizedText BatchLimits",
    "Similarity": "cos_sim dot_score euclidean_sim manhattan_sim pairwise_cos_sim pairwise_dot_score "
    "pairwise_euclidean_sim pairwise_manhattan_sim normalize_embeddings truncate_embeddings "
    "sparse_dot_score sparse_cos_sim maxsim maxsim_pairwise",
    "Search and mining": "semantic_search paraphrase_mining paraphrase_mining_embeddings community_detection "
    "bitext_mining mine_hard_negatives quantize_embeddings semantic_search_quantized",
    "Indexes": "VectorIndex IndexEntry SparseIndex FaissIndex UsearchIndex",
    "Many processes": "EncoderPool",
    "Functions": "functions.Function functions.Limits functions.Answer functions.RequestError "
    "functions.aws_lambda.lambda_handler functions.wsgi.wsgi_app functions.asgi.asgi_app",
    "Frameworks": "integrations.langchain.EmbedderEmbeddings integrations.llama_index.EmbedderEmbedding "
    "integrations.haystack.EmbedderTextEmbedder integrations.haystack.EmbedderDocumentEmbedder "
    "integrations.chroma.EmbedderEmbeddingFunction integrations.lancedb.EmbedderFunction "
    "integrations.bertopic.EmbedderBackend integrations.keybert.EmbedderBackend integrations.mteb.EmbedderEncoder",
    "Jobs": "integrations.table_encoder.TableEncoder integrations.ray.EncodeBatches integrations.ray.EncodeFiles "
    "integrations.ray.send_model integrations.ray.SentModel integrations.ray.unfinished_files "
    "integrations.spark.SparkEncoder "
    "files.file_pairs.pair_files files.file_pairs.FilePair files.file_pairs.rows_done",
    "Compatibility": "compat.SentenceTransformer compat.CrossEncoder compat.util",
    "Errors": "EmbedderError ModelNotFoundError ArtifactError FormatError InputError ImageError SettingError "
    "ConflictError ProviderError DeviceMemoryError WorkerError DependencyError CutTextWarning",
}


def build_site(site):
    """Write the site to the directory `site`. A warning, such as that of a dead link, ends the program."""
    with tempfile.TemporaryDirectory() as directory:
        write_sources(Path(directory))
        build.build(load_config(str(ROOT / "mkdocs.yml"), docs_dir=directory, site_dir=str(site), strict=True))


def write_sources(directory):
    """Write what MkDocs reads."""
    shown = set(found(*SHOWN))
    for path in found(*ASSETS):
        copy = directory / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, copy)
    for path in found(*PAGES):
        write(directory / path, RANGE.sub("\\1\N{NON-BREAKING HYPHEN}", with_links(path, with_title(path), shown)))
    for path in shown:
        write(directory / f"{path}.md", page_of(path))
    for title, names in API.items():
        write(directory / api_page(title), "\n\n".join([f"# {title}", *map(entry, names.split())]))


def found(*patterns):
    """Return the files that the patterns name, relative to the repository."""
    return [path.relative_to(ROOT) for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def with_title(path):
    """Return the text of a page. The tables of some benchmarks have no title, as other pages include them."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text if text.startswith("# ") else f"# {path.stem.capitalize()}\n\n{text}"


def with_links(path, text, shown):
    """Return the text of a page, with links to the pages that show a file instead of links to the file."""

    def target(link):
        file = Path(os.path.normpath(path.parent / link[1]))
        return f"{link[1]}.md" if file in shown else link[1]

    return LINK.sub(target, text)


def page_of(path):
    """Return a page that shows a file."""
    code = (ROOT / path).read_text(encoding="utf-8")
    return f"# {path.name}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{code}\n````\n"


def entry(name):
    """Return what mkdocstrings replaces by the docstrings of a name. The title of a name in a module has the module."""
    options = f"\n    options:\n      heading: embedder.{name}" if "." in name else ""
    if name == "Embedder":  # some of its methods are in a base class
        options = "\n    options:\n      inherited_members: true"
    return f"::: embedder.{name}{options}"


def api_page(title):
    return f"api/{title.lower().replace(' ', '-')}.md"


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "site", help="where to write; default: site")
    output = parser.parse_args().output
    build_site(output)
    print(f"wrote {output / 'index.html'}")
