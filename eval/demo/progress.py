"""Show how far a stage is, from the progress bar in its output; the rest of the output goes to the log alone."""

import re
import sys

from tqdm import tqdm

_COUNT = re.compile(rb"\| *(\d+)/(\d+) \[")


class StageProgress:
    """Show a bar that follows a subprocess's; call it with the output as it comes. On a terminal only.

    Args:
        name: Shown before the bar.
        follows: Text in the lines of the bar to follow, such as ``Training``. Empty: the stage has no bar, and only the
            time is shown.

    Attributes:
        done: How much is done, as far as the output tells.
        total: Of how much.
    """

    def __init__(self, name: str, follows: str) -> None:
        self.done, self.total = 0, 0
        self._follows = follows.encode()
        self._rest = b""
        # Without a terminal, lines that overwrite each other would only fill a log.
        self._bar = tqdm(desc=f"  {name}", disable=not sys.stderr.isatty(), leave=False, file=sys.stderr)
        if not follows:
            self._bar.bar_format = "{desc}: {elapsed}"

    def __call__(self, chunk: bytes) -> None:
        """Take in the next piece of output, which may end anywhere."""
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + chunk)
        for line in lines:
            if self._follows and self._follows in line and (found := _COUNT.search(line)):
                before, self.done, self.total = self.done, int(found[1]), int(found[2])
                self._bar.total = self.total
                self._bar.update(self.done - before)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()
