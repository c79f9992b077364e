"""How far a stage is, from the progress bar in its output: the rest of the output goes to the log alone."""

import re
import sys

from tqdm import tqdm

_COUNT = re.compile(rb"\| *(\d+)/(\d+) \[")


class StageProgress:
    """A bar that follows the one of a subprocess; call it with the output as it comes. On a terminal only.

    Args:
        name: Shown before the bar.
        follows: Text in the lines of the bar to follow, such as ``Training``. Empty: the stage has no bar, and only the
            time is shown.
    """

    def __init__(self, name: str, follows: str) -> None:
        self._follows = follows.encode()
        self._rest = b""
        # Without a terminal (file None), lines that overwrite each other would only fill a log.
        self._bar = tqdm(desc=f"  {name}", disable=not sys.stderr.isatty(), leave=False, file=sys.stderr)
        if not follows:
            self._bar.bar_format = "{desc}: {elapsed}"

    def __call__(self, chunk: bytes) -> None:
        """Take in the next piece of output, which may end anywhere."""
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + chunk)
        for line in lines:
            if self._follows and self._follows in line and (found := _COUNT.search(line)):
                done, self._bar.total = int(found[1]), int(found[2])
                self._bar.update(done - self._bar.n)
        self._bar.refresh()

    @property
    def done(self) -> tuple[int, int | None]:
        """Return how much is done, and of how much."""
        return int(self._bar.n), self._bar.total

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()
