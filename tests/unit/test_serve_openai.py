"""The server's interface of OpenAI, asked in this process."""

import base64
import gzip
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedder import Embedder
from embedder.serve.settings import ServerSettings
from tests.asgi_client import ServedApp
from tests.tiny import add_image_graph, expected_of_image, ids_of, write_tiny_artifact

PATH = "/v1/embeddings"
SETTINGS = ServerSettings(max_texts=4, max_characters=200)
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
TEXT_LIMIT = 16


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An application with a model of texts, one of texts and images, and one that does not normalise."""
    directory = tmp_path_factory.mktemp("openai")
    clip = write_tiny_artifact(directory / "clip")
    add_image_graph(clip)
    tiny = write_tiny_artifact(directory / "tiny", prompts={"query": "query: "})
    plain = write_tiny_artifact(directory / "plain", normalize=False)
    names = {"org/tiny": tiny, "org/clip": clip, "plain": plain}
    app = ServedApp({name: Embedder(path) for name, path in names.items()}, SETTINGS)
    yield app
    app.close()


@pytest.fixture(scope="module")
def model(app):
    return app.models.embedder(None).model


def image_bytes(kind="PNG", pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def data_uri(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def vectors_of(answer):
    assert answer.status == 200, answer.body
    return np.float32([item["embedding"] for item in answer.json["data"]])


def refusal_of(answer):
    """Return the status, the code, the key and the message of a refusal, and check its form."""
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    return answer.status, error["code"], error["param"], error["message"]


def test_answer_has_the_form_of_openai(app, model):
    answer = app.ask(PATH, {"input": ["the cat", "a dog"], "model": "org/tiny"})
    assert answer.headers["content-type"] == "application/json"
    assert {key: answer.json[key] for key in ("object", "model", "usage")} == {
        "object": "list",
        "model": "org/tiny",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    assert [(item["object"], item["index"]) for item in answer.json["data"]] == [("embedding", 0), ("embedding", 1)]
    np.testing.assert_array_equal(vectors_of(answer), model.encode(["the cat", "a dog"]))


@pytest.mark.parametrize(
    "value",
    ["the cat", ["the cat"], ids_of("the cat"), [ids_of("the cat")], {"text": "the cat"}, [{"text": "the cat"}]],
)
def test_every_form_of_an_input_gives_the_same(app, model, value):
    vectors = vectors_of(app.ask(PATH, {"input": value, "model": "tiny"}))
    np.testing.assert_array_equal(vectors, model.encode(["the cat"]))


def test_texts_and_token_ids_keep_their_order(app, model):
    texts = ["a dog", "", "the cat", "b"]
    mixed = ["a dog", {"text": ""}, ids_of("the cat"), "b"]
    np.testing.assert_allclose(
        vectors_of(app.ask(PATH, {"input": mixed, "model": "tiny"})), model.encode(texts), atol=1e-6
    )


def test_base64_has_the_same_numbers(app, model):
    answer = app.ask(PATH, {"input": ["the cat", "b"], "model": "tiny", "encoding_format": "base64"})
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer.json["data"]]
    np.testing.assert_array_equal(decoded, model.encode(["the cat", "b"]))


def test_dimensions_are_normalised_again_where_the_model_normalises(app, model):
    for name, normalizes in (("tiny", True), ("plain", False)):
        full = vectors_of(app.ask(PATH, {"input": "the cat", "model": name}))[0]
        short = vectors_of(app.ask(PATH, {"input": "the cat", "model": name, "dimensions": 3}))[0]
        expected = full[:3] / np.linalg.norm(full[:3]) if normalizes else full[:3]
        np.testing.assert_allclose(short, expected, atol=1e-6)
    assert vectors_of(app.ask(PATH, {"input": "a", "model": "tiny", "dimensions": 8})).shape == (1, 8)


def test_prompt(app, model):
    answer = app.ask(PATH, {"input": "the cat", "model": "tiny", "prompt_name": "query"})
    np.testing.assert_array_equal(vectors_of(answer)[0], model.encode_query("the cat"))
    assert answer.json["usage"]["prompt_tokens"] == len(ids_of("query: the cat"))


def test_text_that_is_cut_counts_what_was_read(app):
    answer = app.ask(PATH, {"input": "the cat " * 25, "model": "tiny"})
    assert answer.json["usage"]["prompt_tokens"] == TEXT_LIMIT


def test_keys_that_are_null_are_as_if_missing(app):
    body = {"input": "a", "model": "tiny"}
    missing = dict.fromkeys(("dimensions", "encoding_format", "user", "prompt_name"))
    assert app.ask(PATH, body | missing).body == app.ask(PATH, body).body


def test_concurrent_requests_get_their_own_vectors(app, model):
    texts = [f"{word} cat" for word in "abcdef123"] * 4
    answers = app.gather(*((PATH, {"input": text, "model": "tiny"}) for text in texts))
    got = np.concatenate([vectors_of(answer) for answer in answers])
    np.testing.assert_allclose(got, model.encode(texts), atol=1e-6)


def test_one_model_alone_needs_no_name(tiny):
    app = ServedApp({"tiny": Embedder(tiny)})
    assert app.ask(PATH, {"input": "a"}).json["model"] == "tiny"
    app.close()


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/a.png", "data:image/png;base64,aaaa"]
)
def test_string_is_a_text_also_for_a_model_of_images(app, text):
    model = app.models.get("clip").model
    np.testing.assert_array_equal(vectors_of(app.ask(PATH, {"input": text, "model": "clip"}))[0], model.encode(text))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_images_by_data_uri(app, kind):
    items = [{"image": data_uri(image_bytes(kind))}, "the cat", {"image": data_uri(image_bytes(kind, PIXELS[::-1]))}]
    answer = app.ask(PATH, {"input": items, "model": "clip"})
    first, text, last = vectors_of(answer)
    np.testing.assert_allclose(first, expected_of_image(PIXELS), rtol=1e-5)
    np.testing.assert_allclose(last, expected_of_image(PIXELS[::-1]), rtol=1e-5)
    np.testing.assert_array_equal(text, app.models.get("clip").model.encode("the cat"))
    assert answer.json["usage"]["prompt_tokens"] == len(ids_of("the cat"))


def form(*fields, boundary="b", end=True):
    """Return the body and the header of a form. A field is its name, its file name or None, and its value."""
    body = b""
    for name, file_name, value in fields:
        file = "" if file_name is None else f'; filename="{file_name}"\r\nContent-Type: image/png'
        body += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"
        )
    return body + (f"--{boundary}--\r\n".encode() if end else b""), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def test_images_by_upload(app):
    body, headers = form(
        ("model", None, b"clip"),
        ("input", "../../etc/passwd", image_bytes()),
        ("input", None, "é".encode()),
        ("dimensions", None, b"3"),
    )
    image, text = vectors_of(app.ask(PATH, body, headers=headers))
    short = expected_of_image(PIXELS)[:3]
    np.testing.assert_allclose(image, short / np.linalg.norm(short), rtol=1e-5)
    np.testing.assert_allclose(
        text, app.models.get("clip").model.encode("é", truncate_dim=3, normalize_embeddings=True)
    )


IMAGE = data_uri(image_bytes())
BAD_FORMS = [
    (form(("input", None, b"a"), end=False), 400, "invalid_form", "the body is not a form: it has no end"),
    ((b"", {"content-type": "multipart/form-data; boundary=b"}), 400, "invalid_form", "it has no end"),
    ((b"x", {"content-type": "multipart/form-data"}), 400, "invalid_form", "its Content-Type has no boundary"),
    ((b"--b\r\nx--b--", {"content-type": "multipart/form-data; boundary=b"}), 400, "invalid_form", "it has no end"),
    ((b"--b\r\nx\r\n--b--", {"content-type": "multipart/form-data; boundary=b"}), 400, "invalid_form", "no headers"),
    (
        (b"--b\r\nA: b\r\n\r\nx\r\n--b--", {"content-type": "multipart/form-data; boundary=b"}),
        400,
        "invalid_form",
        "no name",
    ),
    (form(("model", None, b"a"), ("model", None, b"b")), 400, "invalid_form", 'the field "model" occurs twice'),
    (form(("model", "a", b"a")), 400, "invalid_value", 'files belong in the field "input", not in "model"'),
    (form(("input", None, b"\xff")), 400, "invalid_value", 'the field "input" is not UTF-8. Send an image with a file'),
    (form(*[("input", None, b"a")] * 105), 413, "too_many_texts", "the form has more than 103 fields"),
    (
        form(("model", None, b"tiny"), *[("input", None, b"a")] * 5),
        413,
        "too_many_texts",
        "input has 5 texts, and the limit is 4",
    ),
    (
        form(("dimensions", None, b"x"), ("input", None, b"a"), ("model", None, b"tiny")),
        400,
        "invalid_value",
        "dimensions should be a whole",
    ),
    (form(("model", None, b"clip")), 400, "missing_key", '"input" is missing'),
    (form(("input", "a.png", b"\x89PNG\r\n\x1a\n"), ("model", None, b"clip")), 400, "unreadable_image", "input[0] is "),
]


@pytest.mark.parametrize(("sent", "status", "code", "message"), BAD_FORMS)
def test_bad_form(app, sent, status, code, message):
    body, headers = sent
    answered = refusal_of(app.ask(PATH, body, headers=headers))
    assert (answered[0], answered[1]) == (status, code)
    assert message in answered[3]


BAD_BODIES = [
    (b"", "invalid_json", "there is no body. Send a JSON object"),
    (b"{", "invalid_json", "the body is not JSON: unexpected end of data"),
    (b"[]", "invalid_json", "the body should be a JSON object, not a list"),
    (b'{"input": NaN}', "invalid_json", "the body is not JSON: "),
    (b'{"input": 1e999}', "invalid_json", "the body is not JSON: "),
    (b'{"input": "\xff"}', "invalid_json", "the body is not JSON: str is not valid UTF-8"),
    (b'{"input": "\\ud800"}', "invalid_json", "the body is not JSON: no low surrogate in string"),
    (b'{"input": "a", "input": "b"}', "invalid_json", "a key of the body occurs twice"),
    (b'{"input": [{"text": "a", "text": "b"}]}', "invalid_json", "a key of the body occurs twice"),
    (b'{"input": "a", "\\u0069nput": "b"}', "invalid_json", "a key of the body occurs twice"),
    (b"[" * 5000, "invalid_json", "the body is not JSON: depth limit exceeded"),
]


@pytest.mark.parametrize(("body", "code", "message"), BAD_BODIES)
def test_body_that_is_no_json_object(app, body, code, message):
    status, found, _, text = refusal_of(app.ask(PATH, body))
    assert (status, found) == (400, code)
    assert text.startswith(message)


BAD_REQUESTS = [
    ({}, 400, "missing_key", "input", '"input" is missing'),
    ({"input": None}, 400, "missing_key", "input", '"input" is missing'),
    (
        {"input": "a", "model": None},
        400,
        "missing_key",
        "model",
        '"model" is missing. The models are org/tiny, org/clip',
    ),
    ({"input": "a", "model": "x"}, 404, "model_not_found", "model", "org/tiny, org/clip, plain"),
    ({"input": "a", "model": 3}, 400, "invalid_value", "model", "model should be a string, not 3"),
    ({"inputs": "a"}, 400, "unknown_key", None, 'unknown key "inputs": the texts belong under "input". The keys are'),
    ({"input": "a", "truncate_dim": 3}, 400, "unknown_key", None, 'use "dimensions"'),
    ({"input": "a", "input_type": "query"}, 400, "unknown_key", None, 'use "prompt_name", such as "query" or'),
    ({"input": "a", "x" * 99: 3}, 400, "unknown_key", None, f'unknown key "{"x" * 40}..."'),
    ({"input": []}, 400, "empty_input", "input", "input is empty. Send at least one text"),
    ({"input": ["a"] * 5}, 413, "too_many_texts", "input", "input has 5 texts, and the limit is 4. Send fewer"),
    ({"input": "a" * 201}, 413, "text_too_long", "input", "input has 201 characters, and the limit is 200. Split it"),
    ({"input": ["a", {"text": "a" * 201}]}, 413, "text_too_long", "input[1].text", "input[1].text has 201 characters"),
    (
        {"input": 3},
        400,
        "invalid_value",
        "input",
        "input should be a string, a list of token ids, or an object such as",
    ),
    ({"input": ["a", None]}, 400, "invalid_value", "input[1]", "input[1] should be a string"),
    ({"input": [[]]}, 400, "invalid_value", "input[0]", "input[0] should be a string"),
    ({"input": [["a"]]}, 400, "invalid_value", "input[0]", "input[0] should be a string"),
    ({"input": [1.5]}, 400, "invalid_value", "input[0]", "input[0] should be a string"),
    ({"input": [{"text": 3}]}, 400, "invalid_value", "input[0].text", "input[0].text should be a string, not 3"),
    ({"input": [{}]}, 400, "invalid_value", "input[0]", 'input[0] should have one key, "text" or "image"'),
    ({"input": [{"text": "a", "image": IMAGE}]}, 400, "invalid_value", "input[0]", "input[0] should have one key"),
    ({"input": [True]}, 400, "wrong_token_ids", "input", "input[0] should be a whole number, not True"),
    ({"input": [2, 1.5, 3]}, 400, "wrong_token_ids", "input", "input[1] should be a whole number, not 1.5"),
    ({"input": [[2, "a"]]}, 400, "wrong_token_ids", "input[0]", "input[0][1] should be a whole number"),
    ({"input": [10**30]}, 400, "invalid_value", "input[0]", "input[0] should be a string"),
    ({"input": [-1]}, 400, "wrong_token_ids", "input", "input[0] is -1, which is no token id of this model. Token ids"),
    (
        {"input": [9906, 1917]},
        400,
        "wrong_token_ids",
        "input",
        "9906, which is no token id of this model. Token ids of",
    ),
    (
        {"input": ["a", [10, 11]]},
        400,
        "wrong_token_ids",
        "input[1]",
        "input[1] should begin with 2 ([CLS]) and end with 3",
    ),
    ({"input": [2, *[10] * 20, 3]}, 400, "wrong_token_ids", "input", "input has 22 tokens, and the model reads 16"),
    (
        {"input": "a", "dimensions": 0},
        400,
        "invalid_value",
        "dimensions",
        "dimensions should be a whole number, at least 1",
    ),
    (
        {"input": "a", "dimensions": 9},
        400,
        "invalid_value",
        "dimensions",
        "dimensions should be at most 8, which is what",
    ),
    ({"input": "a", "dimensions": True}, 400, "invalid_value", "dimensions", "not true or false"),
    ({"input": "a", "dimensions": 2.0}, 400, "invalid_value", "dimensions", "not 2.0"),
    (
        {"input": "a", "encoding_format": "hex"},
        400,
        "invalid_value",
        "encoding_format",
        '"float" or "base64", not "hex"',
    ),
    (
        {"input": "a", "prompt_name": "x"},
        400,
        "invalid_value",
        "prompt_name",
        'no prompt_name "x": it has query, document',
    ),
    ({"input": "a", "prompt_name": 3}, 400, "invalid_value", "prompt_name", "prompt_name should be a string, not 3"),
    ({"input": [{"image": IMAGE}]}, 400, "invalid_value", "input[0]", "org/tiny takes no images"),
]


@pytest.mark.parametrize(("body", "status", "code", "param", "message"), BAD_REQUESTS)
def test_bad_request(app, body, status, code, param, message):
    answered = refusal_of(app.ask(PATH, {"model": "tiny", **body}))
    assert answered[:3] == (status, code, param)
    assert message in answered[3]


BOMB = io.BytesIO()
Image.new("1", (8_000, 8_000)).save(BOMB, "PNG")
BAD_IMAGES = [
    (
        "/etc/passwd",
        400,
        "input[0].image",
        'should be a data URI, such as "data:image/png;base64,...", not "/etc/passwd"',
    ),
    ("http://127.0.0.1/a.png", 400, "input[0].image", "No file is read and no address is asked"),
    ("data:text/html;base64,aaaa", 400, "input[0].image", "should be a data URI"),
    ("data:image/png,x;base64,aaaa", 400, "input[0].image", "should be a data URI"),
    (3, 400, "input[0].image", "should be a data URI"),
    ("data:image/png;base64,a", 400, "input[0].image", "input[0].image is not valid base64"),
    ("data:image/png;base64,\u00e9\u00e9\u00e9\u00e9", 400, "input[0].image", "input[0].image is not valid base64"),
    ("data:image/png;base64,", 400, "input[0]", "is not an image of a known format: send JPEG, PNG, WebP"),
    (data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 400, "input[0]", "is not an image of a known format"),
    (data_uri(b"%!PS-Adobe-3.0 EPSF-3.0\n"), 400, "input[0]", "is not an image of a known format"),
    (data_uri(image_bytes()[:20]), 400, "input[0]", "input[0]"),
    (data_uri(image_bytes()[:-30]), 400, "input[0]", "input[0]"),
    (data_uri(BOMB.getvalue()), 413, "input[0]", "has 8,000 x 8,000 pixels, and the limit is 50,000,000 in all"),
]


@pytest.mark.parametrize(("image", "status", "param", "message"), BAD_IMAGES)
def test_bad_image(app, image, status, param, message):
    answered = refusal_of(app.ask(PATH, {"input": [{"image": image}], "model": "clip"}))
    assert (answered[0], answered[2]) == (status, param)
    assert answered[1] == ("image_too_large" if status == 413 else "unreadable_image")
    assert message in answered[3]
    assert "Traceback" not in answered[3]


def test_damaged_image_does_not_harm_others(app):
    damaged = {"input": ["a", {"image": data_uri(image_bytes()[:-30])}], "model": "clip"}
    whole = {"input": [{"image": IMAGE}], "model": "clip"}
    bad, good = app.gather((PATH, damaged), (PATH, whole))
    assert refusal_of(bad)[:3] == (400, "unreadable_image", "input[1]")
    np.testing.assert_allclose(vectors_of(good)[0], expected_of_image(PIXELS), rtol=1e-5)


def test_images_without_pillow(app, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    answered = refusal_of(app.ask(PATH, {"input": [{"image": IMAGE}], "model": "clip"}))
    assert answered[0] == 501
    assert answered[3] == "this server cannot read images: Pillow is not installed"


def test_body_with_too_many_values(app):
    body = b'{"input": [' + b"[]," * 200_000 + b"[]]}"
    status, code, _, message = refusal_of(app.ask(PATH, body))
    assert (status, code) == (413, "too_many_values")
    assert message == "the body has more than 300,000 JSON values. Send fewer at a time"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/octet-stream"]
)
def test_body_that_is_no_json_by_its_header(app, content_type):
    answer = app.ask(PATH, {"input": "a", "model": "tiny"}, headers={"content-type": content_type})
    assert refusal_of(answer)[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("path", [PATH, "/embed"])
def test_compressed_body(app, path):
    answer = app.ask(path, gzip.compress(b'{"input": "a"}'), headers={"content-encoding": "gzip"})
    assert answer.status == 415
    assert "the body is compressed. Send it without the header Content-Encoding" in answer.body.decode()


@pytest.mark.parametrize(
    "content_type", [None, "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
def test_header_of_json_is_read_kindly(app, content_type):
    assert app.ask(PATH, {"input": "a", "model": "tiny"}, headers={"content-type": content_type}).status == 200


def test_models(app):
    listed = app.ask("/v1/models", method="GET").json
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["org/tiny", "org/clip", "plain"]
    one = app.ask("/v1/models/org/clip", method="GET").json
    assert one in listed["data"]
    assert (one["dimension"], one["max_seq_length"], one["modalities"], one["normalized"]) == (
        8,
        16,
        ["text", "image"],
        True,
    )
    assert refusal_of(app.ask("/v1/models/none", method="GET"))[:3] == (404, "model_not_found", "model")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda items: (
        st.lists(items, max_size=5) | st.dictionaries(st.sampled_from(["text", "image", "x"]), items, max_size=2)
    ),
    max_leaves=8,
)
KEYS = ["input", "model", "dimensions", "encoding_format", "user", "prompt_name", "x"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, max_size=5))
def test_any_json_object_gets_vectors_or_a_refusal(app, body):
    answer = app.ask(PATH, {"model": "clip", **body})
    if answer.status == 200:
        assert np.isfinite(vectors_of(answer)).all()
    else:
        assert refusal_of(answer)[0] in (400, 404, 413)


@given(st.data())
def test_any_damage_to_a_body_gets_vectors_or_a_refusal(app, data):
    body = bytearray(json.dumps({"input": ["the cat", {"image": IMAGE}], "model": "clip", "dimensions": 3}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    answer = app.ask(PATH, bytes(body))
    assert answer.status == 200 or refusal_of(answer)[0] in (400, 404, 413)
