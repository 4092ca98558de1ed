"""No run of 8 characters of a key is left in a text, however it was written; and nothing else goes."""

from __future__ import annotations

import base64
import html
import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import llm_stresstest as st
from tests.conftest import ROOT

RUN = 8
PREFIXES = ["", "sk-", "sk-proj-", "sk-ant-api03-", "sk-or-v1-", "gsk_", "hf_", "Bearer ", "nvapi-"]
PLAIN = string.ascii_letters + string.digits + "_-"
ODD = PLAIN + "/+=.~!$&'()*,;:@%\"\\<>?# "
secrets = hs.builds(
    lambda prefix, first, rest: (prefix, prefix + first + rest),
    hs.sampled_from(PREFIXES),
    hs.text(PLAIN, min_size=10, max_size=10).map(lambda text: f"7{text}z9"),
    hs.text(PLAIN, max_size=40) | hs.text(ODD, max_size=40),
)

# A way of writing -> what it makes of one character.
ONE_BY_ONE: dict[str, Callable[[str], str]] = {
    "as it is": lambda c: c,
    "upper case": str.upper,
    "lower case": str.lower,
    "other case": str.swapcase,
    "JSON": lambda c: json.dumps(c)[1:-1],
    "JSON of PHP": lambda c: json.dumps(c)[1:-1].replace("/", "\\/"),
    "JSON in JSON": lambda c: json.dumps(json.dumps(c)[1:-1])[1:-1],
    "JSON, all escaped": lambda c: f"\\u{ord(c):04X}",
    "Python's repr": lambda c: repr(c)[1:-1],
    "Python, all escaped": lambda c: f"\\x{ord(c):02x}",
    "URL": lambda c: quote(c, safe=""),
    "URL in URL": lambda c: quote(quote(c, safe=""), safe=""),
    "URL, all escaped": lambda c: f"%{ord(c):02x}",
    "HTML": html.escape,
    "HTML, all escaped": lambda c: f"&#{ord(c)};",
    "HTML, all hexadecimal": lambda c: f"&#x{ord(c):X};",
    "URL in JSON": lambda c: json.dumps(quote(c, safe=""))[1:-1],
    "Python, octal": lambda c: f"\\{ord(c):03o}",
    "Python, 8 digits": lambda c: f"\\U{ord(c):08x}",
    "JavaScript, in braces": lambda c: f"\\u{{{ord(c):x}}}",
    "URL of old browsers": lambda c: f"%u{ord(c):04x}",
    "HTML without semicolons": lambda c: f"&#{ord(c)}",
    "hexadecimal, a space between": lambda c: f"{ord(c):02x} ",
    "hexadecimal, colons": lambda c: f"{ord(c):02X}:",
    "hexadecimal, as in C": lambda c: f"0x{ord(c):02x}, ",
    "hexadecimal": lambda c: f"{ord(c):02x}",
    "HEXADECIMAL": lambda c: f"{ord(c):02X}",
}


@settings(max_examples=250, deadline=None)
@given(secret=secrets, way=hs.sampled_from(sorted(ONE_BY_ONE)), data=hs.data())
def test_no_run_of_a_key_is_left_wherever_it_is_cut_and_however_it_is_written(
    secret: tuple[str, str], way: str, data: hs.DataObject
) -> None:
    prefix, value = secret
    units = [ONE_BY_ONE[way](character) for character in value]
    start = data.draw(hs.integers(0, len(value)))
    stop = data.draw(hs.integers(start, len(value)))
    before, after = data.draw(hs.tuples(hs.text(max_size=5), hs.text(max_size=5)))
    left = st.Redactor([value])(before + "".join(units[start:stop]) + after)
    for place in range(max(start, len(prefix)), stop - RUN + 1):
        assert "".join(units[place : place + RUN]) not in left.replace(st.REDACTED, "")


@settings(max_examples=100, deadline=None)
@given(
    secret=secrets,
    around=hs.tuples(hs.binary(max_size=7), hs.binary(max_size=7)),
    data=hs.data(),
    url_safe=hs.booleans(),
)
def test_no_run_of_a_key_is_left_in_base64_wherever_it_begins(
    secret: tuple[str, str], around: tuple[bytes, bytes], data: hs.DataObject, url_safe: bool
) -> None:
    prefix, value = secret
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    code = encode(around[0] + value.encode() + around[1]).decode()
    start = data.draw(hs.integers(0, len(code)))
    stop = data.draw(hs.integers(start, len(code)))
    left = st.Redactor([value])(code[start:stop])
    # Each run of 12 characters whose first is wholly of the private part holds more than 8 bytes.
    first = -(-8 * (len(around[0]) + len(prefix)) // 6)
    last = 8 * (len(around[0]) + len(value)) // 6
    for place in range(max(first, start), min(last, stop) - 12 + 1):
        assert code[place : place + 12] not in left


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_whole_key_goes_with_its_public_part(prefix: str) -> None:
    key = f"{prefix}4fQ9zL2mX8rT6wB1"
    assert st.Redactor([key])(f"Your key is {key}.") == f"Your key is {st.REDACTED}."


def test_what_everybody_knows_of_a_key_is_left() -> None:
    redact = st.Redactor(["sk-proj-4fQ9zL2mX8rT6wB1", "Bearer 0a9b8c7d6e5f"])
    text = "Keys begin with sk-proj- and stand behind Bearer in the Authorization header."
    assert redact(text) == text


@pytest.mark.parametrize(
    "word", ["ollama", "EMPTY", "none", "test", "x", "not-needed", "lm-studio", "sk-no-key", "dummy_key", "Password", "placeholder"]
)  # fmt: skip
def test_a_word_is_no_secret_and_changes_no_answer(word: str) -> None:
    assert not st.Redactor.is_secret(word)
    text = f"With {word} as the key, {word} runs: {word.upper()}, {word}s and {base64.b64encode(word.encode()).decode()}."
    assert st.Redactor([word])(text) == text


@pytest.mark.parametrize(
    "word", ["sk-no-key-required", "correct-horse-battery-staple", "token-abc123", "Password1"]
)
def test_a_key_of_words_goes_as_a_whole_and_its_words_stay(word: str) -> None:
    redact = st.Redactor([word])
    assert redact(f"the key {word}!") == f"the key {st.REDACTED}!"
    text = "No key is required for the correct horse; its battery holds a staple. key-required; a password or a token-abc"
    assert redact(text) == text


def test_texts_that_do_not_hold_a_key_stay_as_they_are() -> None:
    chance = random.Random(1)
    keys = ["".join(chance.choices(PLAIN, k=chance.randrange(12, 60))) for _ in range(30)]
    redact = st.Redactor([*keys, "the quick brown fox 7"])
    for name in ("README.md", "questions.json", "extensions/quality.py"):
        text = Path(ROOT / name).read_text()
        assert redact(text) == text


def test_several_keys_in_one_text_all_go() -> None:
    keys = [f"{place}aB3dE5fG7hJ{place}kL" for place in range(10, 30)]
    assert st.Redactor(keys)(" ".join(keys)) == " ".join([st.REDACTED] * 20)
    assert st.Redactor(keys)("".join(keys)).replace(st.REDACTED, "") == ""


@settings(max_examples=100, deadline=None)
@given(text=hs.text("\\u00%&#x;41amp/", max_size=60))
def test_any_mixture_of_escapes_is_read(text: str) -> None:
    key = "4fQ9zL2mX8rT6wB1"
    left = st.Redactor([key])(text + key[:12] + text)
    assert key[:12] not in left
    assert len(left) <= 2 * len(text) + len(st.REDACTED)


@pytest.mark.parametrize("text", ["aB3d" * 300_000, "%41" * 300_000, "&#65;" * 200_000, "\\" * 1_000_000, "aB3dE5fG7hJ9kL" * 80_000])  # fmt: skip
def test_a_hostile_text_of_a_megabyte_takes_no_more_than_seconds(text: str) -> None:
    import time

    begun = time.monotonic()
    st.Redactor(["aB3dE5fG7hJ9kL"])(text)
    assert time.monotonic() - begun < 5


def test_a_tree_is_redacted_in_its_keys_and_values() -> None:
    key = "4fQ9zL2mX8rT6wB1"
    tree = {key: [key, {"a": (f"x{key}", 1, None)}]}
    assert st.Redactor([key]).tree(tree) == {
        st.REDACTED: [st.REDACTED, {"a": [f"x{st.REDACTED}", 1, None]}]
    }
