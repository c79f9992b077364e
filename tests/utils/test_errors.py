"""What an error says, in one line."""

from lerobot_atlasvla.utils.errors import first_line


def test_the_first_line_of_an_error_that_says_something():
    error = OSError("\n  \n first \nsecond")
    assert first_line(error) == "first"
    assert first_line(error, 11, kind=True) == "OSError: fi"
    assert first_line(ValueError()) == first_line(ValueError(), kind=True) == "ValueError"
