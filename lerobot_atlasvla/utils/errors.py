"""Bring what an error says into one line."""


def brief(error: BaseException) -> str:
    """Return an error in one line of at most 500 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def first_line(error: BaseException, limit: int | None = None, *, kind: bool = False) -> str:
    """Return the first line of an error's message that says something, after its kind if asked for or if none does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:1]
    return ": ".join([type(error).__name__] * (kind or not lines) + lines)[:limit]
