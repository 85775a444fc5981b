"""Commands are found where the documents have them, and a walk fails where they are gone."""

import pytest

from tests.install.blocks import commands, words


def test_a_block_is_found_by_its_heading_with_continued_lines_joined() -> None:
    assert commands("README.md", "Quick start")[0] == "git clone URL obt-agent && cd obt-agent"
    (line,) = commands("docs/tutorial/two-machines.md", "A certificate of your own")
    assert line.startswith("openssl req -x509")
    assert line.endswith("-keyout key.pem -out cert.pem")


def test_words_end_where_the_next_heading_stands() -> None:
    assert "## Measure this machine" not in words("README.md", "Quick start")


@pytest.mark.parametrize(
    ("heading", "block"), [("Quick star", 0), ("Quick start", 1), ("Supported systems", 0)]
)
def test_one_that_is_gone_fails(heading: str, block: int) -> None:
    with pytest.raises(AssertionError, match=heading):
        commands("README.md", heading, block=block)
