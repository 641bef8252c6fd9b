"""Names in an ASCII locale: Python reads their letters as lone surrogates, which no encoder writes."""

import pytest

from ss_lightning.files import save_text, utf8


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("größe", "größe"),
        ("größe".encode().decode("ascii", "surrogateescape"), "größe"),
        ("gr\udcf6ss", "gr\ufffdss"),  # Latin-1
        ("\ud800", "?"),
        ("größe \ud800", "größe ?"),
    ],
)
def test_a_text_is_written_whatever_is_in_it(text, written, tmp_path):
    assert utf8(text).decode("utf-8") == written
    save_text(tmp_path / "file", text)
    assert (tmp_path / "file").read_text(encoding="utf-8") == written
