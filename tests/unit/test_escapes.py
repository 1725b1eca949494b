"""Text of strangers never drives a terminal: control characters are shown as escapes."""

import json
import sys
from dataclasses import replace

import pytest
from PIL import Image

import embedder
from embedder.artifact.manifest import Head, Source, read_manifest, write_manifest
from embedder.cli.main import main
from embedder.common.escapes import escape_line, escape_message
from embedder.errors import ArtifactError, DependencyError, ImageError
from tests.tiny import add_image_graph, redescribe

CONTROLS = "\x1b[31m \x07 \x9b2J \x7f \r \0 \u202e \u2066 \u061c \u2028"
ESCAPED = r"\x1b[31m \x07 \x9b2J \x7f \r \x00 \u202e \u2066 \u061c \u2028"
# An emoji that is joined from two, a Persian word with a non-joiner, and accents: none drives a terminal.
HARMLESS = "\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u0631 e\u0301 \u00a0 字"


def test_control_characters_are_escaped_and_others_are_kept():
    assert escape_line(CONTROLS + "\n\t") == ESCAPED + r"\n\t"
    assert escape_message(CONTROLS + "\n\t") == ESCAPED + "\n\t"
    assert escape_line(HARMLESS) == escape_message(HARMLESS) == HARMLESS


@pytest.mark.parametrize("kind", [ArtifactError, DependencyError])
def test_message_of_an_error(kind):
    assert str(kind(f"'{CONTROLS}'")) == f"'{ESCAPED}'"
    assert str(kind()) == ""


def test_message_of_an_error_of_images():
    assert ESCAPED in str(ImageError({0: CONTROLS}, [], []))


def test_message_that_quotes_a_library_that_quotes_a_file(tiny):
    path = tiny / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "\x1b[2J"}))
    redescribe(tiny)
    with pytest.raises(ArtifactError) as caught:
        embedder.Embedder(tiny)
    assert "\x1b" not in str(caught.value)
    assert r"\x1b[2J" in str(caught.value)


def test_info_of_an_artifact_with_escapes(make_artifact, capsys):
    head = Head(("mean",), True, (CONTROLS,))
    forged = f"{CONTROLS}\nfiles           4, all with the right sha256"
    directory = make_artifact(source=Source(forged, CONTROLS, "0" * 64), head=head, tools={CONTROLS: CONTROLS})
    manifest = read_manifest(directory)
    graph = replace(manifest.graphs[0], form=CONTROLS)
    write_manifest(replace(manifest, graphs=(graph,), prompts={CONTROLS: CONTROLS}), directory)
    assert main(["info", str(directory)]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set(CONTROLS) - {" ", *"[31m2J"}
    assert "\nfiles           4, all" not in out


@pytest.mark.parametrize("terminal", [False, True])
def test_paths_of_images_are_escaped_only_on_a_terminal(terminal, tiny, tmp_path, capsys, monkeypatch):
    add_image_graph(tiny)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "\x1b[31m.png")
    (tmp_path / "images" / "\x1b]0;.png").write_bytes(b"damaged")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert main(["search", "--model", str(tiny), "--images", str(tmp_path / "images"), "a"]) == 1
    out, err = capsys.readouterr()
    assert (r"\x1b[31m.png" if terminal else "\x1b[31m.png") in out
    assert "\x1b" not in err
    assert r"\x1b]0;.png" in err
