"""Define what run folders and reports call the benchmark."""

from eval.robustness.libero_plus.catalog import PLUS

NAME = f"LIBERO-Plus ({PLUS.distribution} {PLUS.version})"
SUITE_SUFFIX = "_plus"
"""Of the suite under which a run folder lists the tasks, by their numbers in LIBERO-Plus."""
