"""The pages in docs/jobs. The tests of the frameworks run the examples of their pages."""

from pathlib import Path

import pyarrow.parquet as pq

PAGES = sorted((Path(__file__).parents[2] / "docs/jobs").glob("*.md"))


def test_every_page_is_in_the_index_and_its_examples_run():
    index = (PAGES[0].parent / "index.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for page in PAGES:
        assert page.stem == "index" or f"({page.name})" in index
        assert f'run_page("{page.stem}")' in tests or f'"docs/jobs/{page.name}"' in tests


def test_examples_of_the_index(run_page, tmp_path):
    run_page("index")
    assert pq.read_table(tmp_path / "vectors").num_rows == 120
