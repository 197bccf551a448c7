"""JSON of strangers: read as it is, or refused with one class of error."""

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.errors import InvalidOptionError, PolicyError, UnsafeFileError
from mirage_env.files import inside, parse_json, printable, read_json, read_json_object, read_regular

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_is_read_as_it_was_written(values):
    assert parse_json(json.dumps(values), "a") == values
    assert parse_json(json.dumps(values, ensure_ascii=False).encode(), "a") == values


@given(st.binary(max_size=60) | st.text('{}[]",:0123456789eE+-.\\untrfalsN', max_size=40).map(str.encode))
def test_any_bytes_are_json_or_an_error_of_ours(data):
    with contextlib.suppress(InvalidOptionError):
        json.dumps(parse_json(data, "a"), allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "deep"),
        ("[" * 100 + "]" * 100, "deeper than 64"),
        ('{"a":' * 100_000, "deep"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "too large"),
        ("9" * 5000, "digits"),
        ('{"a": 1, "a": 2}', "twice"),
        ('["\\ud800"]', "surrogates"),
        ("", "char 0"),
        ("\x00", "char 0"),
    ],
)
def test_odd_json_is_refused_with_the_reason(text, says):
    with pytest.raises(InvalidOptionError, match=says):
        parse_json(text, "plan.json")


def test_files_are_bounded_and_regular(tmp_path):
    (tmp_path / "a.json").write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(PolicyError, match="bytes"):
        read_json(tmp_path / "a.json", most_bytes=1000, error=PolicyError)
    with pytest.raises(InvalidOptionError, match="holds a list"):
        read_json_object(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/zero", tmp_path / "pipe", tmp_path, tmp_path / "none", "a\0"):
        with pytest.raises(InvalidOptionError, match="cannot be read"):
            read_json(place)


def test_links_are_followed_only_where_they_may_be(tmp_path):
    (tmp_path / "a").write_bytes(b"here")
    (tmp_path / "link").symlink_to("a")
    assert read_regular(tmp_path / "link", 10) == b"here"
    with pytest.raises(UnsafeFileError, match="is a link"):
        read_regular(tmp_path / "link", 10, follow=False)


@pytest.mark.parametrize("name", ["../a", "..", "/etc", "link/a", "a/../../b", "a\0b", "b" * 5000, "circle"])
def test_no_name_leads_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    with pytest.raises(UnsafeFileError, match="inside"):
        inside(folder, name)


def test_names_inside_are_joined(tmp_path):
    for name in ("a", "a/b", "a/../b", "."):
        assert inside(tmp_path, name) == tmp_path / name


@given(st.text(st.characters()))
def test_printed_text_has_nothing_that_a_terminal_obeys(text):
    shown = printable(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert printable(shown) == shown


def test_escape_sequences_become_readable():
    assert printable("a\x1b]0;title\x07b\x9b31m\u202ec") == "a\\x1b]0;title\\x07b\\x9b31m\\u202ec"
    assert printable("plain ä 世界") == "plain ä 世界"
