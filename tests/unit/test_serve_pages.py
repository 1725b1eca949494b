"""The page at `/` of the server: what it may load, and what it does in a real browser."""

import json
import re

import numpy as np
import pytest

from embedder import CrossEncoder, Embedder
from embedder.serve.settings import ServerSettings
from embedder.vectors.layout import principal_layout
from tests.asgi_client import ServedApp, listening
from tests.browser import chromium
from tests.tiny import write_tiny_artifact, write_tiny_ranker

TEXTS = ["cat", "the cat", "dog", "1 2 3", "the dog sat", "2 3"]
HOSTILE = ["<img src=x onerror=hacked()>", "</script><script>hacked()</script>", "'\"&lt;`", "\u202edog"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    models = {name: Embedder(write_tiny_artifact(directory / name)) for name in ("first", "<b>second")}
    app = ServedApp(models | {"ranker": CrossEncoder(write_tiny_ranker(directory / "ranker"))})
    yield app
    app.close()


@pytest.fixture(scope="module")
def address(served):
    with listening(served.app) as address:
        yield f"{address}/"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = browser.open(address)
    page.until("document.querySelector('#model').options.length")
    return page


def test_policy_allows_the_page_and_its_own_server_alone(served):
    answer = served.ask("/", method="GET")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; img-src data:; ")
    assert re.search(r"; script-src 'sha256-[^ ]+'; style-src 'sha256-[^ ]+'$", policy)
    content = answer.body.decode()
    assert not re.search(r"\s(src|style|on\w+)=[\"']", content)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval|Function\(", content)
    assert set(re.findall(r"https?://[^\"']+", content)) == {"http://www.w3.org/2000/svg"}  # the name of SVG


@pytest.mark.slow
def test_two_texts_are_compared(page, served, address):
    page.write("#first", "the cat")
    page.write("#second", "the dog sat")
    page.click("#compare button")
    page.until("document.querySelector('#score').value")
    model = served.models.embedder(None).model
    assert page.evaluate("document.querySelector('#score').value") == (
        f"{model.similarity(*model.encode(['the cat', 'the dog sat'])).item():.4f}"
    )
    assert page.text("#score-note").startswith("The cosine of the two vectors.")
    assert page.problems() == []
    assert {url.split("/")[2] for url in page.requested() if not url.startswith("data:")} == {address.split("/")[2]}


@pytest.mark.slow
def test_page_of_the_api_shows_every_route_and_sends_a_request(browser, served, address):
    page = browser.open(f"{address}docs")
    page.until("document.querySelectorAll('details').length")
    described = served.ask("/openapi.json", method="GET").json["paths"]
    routes = [f"{method} {path}" for path, methods in described.items() for method in methods]
    assert sorted(page.evaluate("[...document.querySelectorAll('details')].map((one) => one.id)")) == sorted(routes)
    (name,) = served.models.names[:1]
    route = "document.getElementById('post /v1/embeddings')"
    page.evaluate(f"{route}.open = true")
    assert page.evaluate(f"{route}.querySelector('.curl').textContent").startswith(f"curl '{address}v1/embeddings'")
    body = json.dumps({"input": "it's <b>bold</b>", "model": name})
    page.evaluate(f"{route}.querySelector('textarea').value = {json.dumps(body)}")
    page.evaluate(f"{route}.querySelector('textarea').dispatchEvent(new Event('input'))")
    assert "it'\\''s <b>bold</b>" in page.evaluate(f"{route}.querySelector('.curl').textContent")
    page.evaluate(f"{route}.querySelector('button').click()")
    page.until(f"{route}.querySelector('.answer').textContent.startsWith('200, ')")
    shown = page.evaluate(f"{route}.querySelector('.answer').textContent").partition("\n")[2]
    assert json.loads(shown) == served.ask("/v1/embeddings", body.encode()).json
    assert page.problems() == []


@pytest.mark.slow
def test_long_name_of_a_model_fits_a_phone(browser, address):
    page = browser.open(address, width=390)
    page.until("document.querySelector('#model').options.length")
    page.evaluate("document.querySelector('#model').options[0].textContent = 'a-long-name'.repeat(9)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_map_is_the_principal_layout(page, served):
    page.write("#list", "\n".join([*TEXTS, "", "  "]))
    page.click("#draw button")
    page.until("document.querySelectorAll('circle').length")
    places = page.evaluate(
        "[...document.querySelectorAll('circle')].map((one) => [+one.getAttribute('cx'), +one.getAttribute('cy')])"
    )
    layout = principal_layout(served.models.embedder(None).model.encode(TEXTS))
    shown, wanted = (points - points.mean(axis=0) for points in (np.array(places) * [1, -1], layout.points))
    np.testing.assert_allclose(shown / np.abs(shown).max(), wanted / np.abs(wanted).max(), atol=1e-4)
    assert f"with {100 * layout.variance_share:.0f} % of their variance" in page.text("#map-note")
    assert page.evaluate("[...document.querySelectorAll('circle title')].map((one) => one.textContent)") == TEXTS
    assert page.problems() == []


@pytest.mark.slow
def test_point_shows_what_is_near_it(page, served):
    page.write("#list", "\n".join(TEXTS))
    page.click("#draw button")
    page.until("document.querySelectorAll('circle').length")
    page.click("circle:nth-of-type(3)")
    page.until("!document.querySelector('#near').hidden")
    assert page.text("#near h3") == "Most like “dog”, by the cosine"
    vectors = served.models.embedder(None).model.encode(TEXTS, normalize_embeddings=True)
    cosines = vectors @ vectors[2]
    order = [index for index in np.argsort(-cosines, kind="stable") if index != 2][:5]
    assert page.evaluate("[...document.querySelectorAll('#near li')].map((one) => one.children[1].textContent)") == [
        TEXTS[index] for index in order
    ]


@pytest.mark.slow
def test_texts_are_ranked(page, served):
    page.write("#query", "the cat")
    page.write("#texts", "\n".join([*HOSTILE, "", *TEXTS]))
    page.click("#rank button")
    page.until("document.querySelectorAll('#ranked li').length")
    shown = page.evaluate("[...document.querySelectorAll('#ranked li')].map((one) => one.innerText.split('\\n'))")
    expected = served.models.reranker(None).model.rank("the cat", HOSTILE + TEXTS, return_documents=True)
    assert shown == [[f"{item['score']:.4f}", item["text"]] for item in expected]
    assert page.problems() == []


@pytest.mark.slow
def test_page_shows_what_the_models_can_do(browser, tmp_path):
    served = ServedApp({"ranker": CrossEncoder(write_tiny_ranker(tmp_path / "ranker"))})
    with listening(served.app) as address:
        page = browser.open(address)
        page.until("!document.querySelector('.rank').hidden")
        assert page.evaluate("[...document.querySelectorAll('.embed')].every((one) => one.hidden)")
        assert page.text("#reranker") == "ranker"
    served.close()


@pytest.mark.slow
def test_hostile_texts_and_names_stay_texts(page):
    assert page.evaluate("[...document.querySelector('#model').options].map((one) => one.value)") == [
        "first", "<b>second"
    ]  # fmt: skip
    page.evaluate("document.querySelector('#model').selectedIndex = 1")
    page.write("#list", "\n".join(HOSTILE))
    page.click("#draw button")
    page.until("document.querySelectorAll('circle').length")
    page.evaluate("document.querySelector('circle').dispatchEvent(new MouseEvent('click'))")
    page.until("document.querySelectorAll('#near li').length")
    assert page.evaluate("[...document.querySelectorAll('circle title')].map((one) => one.textContent)") == HOSTILE
    assert page.evaluate("document.querySelectorAll('img, b').length + document.scripts.length") == 1
    assert page.problems() == []


@pytest.mark.slow
def test_problems_are_shown(page):
    page.write("#list", " \n")
    page.click("#draw button")
    page.until("!document.querySelector('#problem').hidden")
    assert page.text("#problem") == "There is no text to draw. Write one a line."
    page.evaluate(
        "document.querySelector('#model').options[1].value = 'gone'; document.querySelector('#model').selectedIndex = 1"
    )
    page.click("#compare button")
    page.until("document.querySelector('#problem').innerText.includes('The models are first, <b>second')")
    page.evaluate("document.querySelector('#model').selectedIndex = 0")
    page.click("#compare button")
    page.until("document.querySelector('#problem').hidden")


@pytest.mark.slow
def test_page_asks_for_the_key(browser, tmp_path):
    (tmp_path / "keys").write_text("secret\n", encoding="utf-8")
    model = Embedder(write_tiny_artifact(tmp_path / "tiny"))
    served = ServedApp({"tiny": model}, ServerSettings(api_key_file=str(tmp_path / "keys")))
    with listening(served.app) as address:
        page = browser.open(address)
        page.until("!document.querySelector('#problem').hidden")
        assert "Authorization" in page.text("#problem")
        page.write("#key", "wrong")
        page.until("document.querySelector('#problem').innerText === 'the API key is wrong'")
        page.write("#key", "secret")
        page.until("document.querySelector('#model').options.length === 1")
        page.until("document.querySelector('#problem').hidden")
        page.click("#compare button")
        page.until("document.querySelector('#score').value")
    served.close()
