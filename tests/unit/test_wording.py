"""Names in messages, and what becomes of text where it leaves the program."""

from __future__ import annotations

import io
import json
import subprocess

import pytest

from gittheta.cli.sink import Sink
from gittheta.errors import FormatError
from gittheta.wording import counted, guess, nearest, quoted, shell_word, shown, visible

#: What moves the cursor, colours, renames the terminal, turns the direction of text, or is not seen.
HOSTILE = "\x1b]0;owned\x07\x1b[31m\u202e\x9b31m\r\u2066\u200b\U000e0041\x7f\x00"


def test_what_is_not_seen_is_told_and_all_else_stays() -> None:
    assert visible(f"вес 重み 😀 a\tb\n{HOSTILE}c") == (
        "вес 重み 😀 a\tb\n\\u001b]0;owned\\u0007\\u001b[31m\\u202e\\u009b31m\\u000d\\u2066\\u200b\\udb40\\udc41"
        "\\u007f\\u0000c"
    )
    assert shown("a\nb\tc") == "a\\u000ab\\u0009c"


@pytest.mark.parametrize("name", ["plain", "it's", 'say "x"', "both ' and \""])
def test_a_name_cannot_end_its_quotes(name: str) -> None:
    text = quoted(name)
    assert text[0] == text[-1] in "'\""
    assert text[0] not in text[1:-1].replace(f"\\{text[0]}", "")


def test_an_error_is_one_line_whatever_the_names_are() -> None:
    error = FormatError("odd", path="a\nfake: all is well", tensor="w\nfake")
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["plain", "two words", "it's", "x\x1b[31my", "a\nb", "вес\r", "-o", "$x`y`"])
def test_a_name_in_a_hint_can_be_pasted_into_a_shell(name: str) -> None:
    word = shell_word(name)
    assert visible(word) == word
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word if word[0] != '-' else './' + word}"], capture_output=True, check=True
    )
    assert done.stdout.decode().removeprefix("./") == name


def test_the_nearest_name_is_told() -> None:
    assert nearest("mian", ["dev", "main", "origin/main"]) == "main"
    assert nearest("ORIGIN", ["origin"]) == "origin"
    assert nearest("xyz", ["main"]) is None
    assert guess("orign", ["origin"], "git remote -v") == "do you mean 'origin'? git remote -v"
    assert guess("xyz", [], "git remote -v") == "git remote -v"


def test_one_object_and_two_objects() -> None:
    assert [counted(count, "object") for count in (0, 1, 2)] == ["0 objects", "1 object", "2 objects"]
    assert counted(2, "history", "histories") == "2 histories"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_means_the_same_in_any_encoding(encoding: str) -> None:
    names = ["вес", "é", "😀", HOSTILE, "\udcff"]
    below = io.BytesIO()
    sink = Sink(io.TextIOWrapper(below, encoding=encoding))
    sink.write(json.dumps(names, ensure_ascii=False))
    sink.flush()
    text = below.getvalue().decode(encoding)
    assert json.loads(text) == names
    assert visible(text) == text


def test_a_text_that_the_terminal_cannot_show_is_shown_in_another_form() -> None:
    below = io.BytesIO()
    sink = Sink(io.TextIOWrapper(below, encoding="latin-1", newline="\n"))
    print("é в", file=sink, flush=True)
    assert below.getvalue() == b"\xe9 \\u0432\n"
