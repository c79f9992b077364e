"""Published results on LIBERO-Plus, as their authors or others report them; none was reproduced here."""

from dataclasses import dataclass, field

from lerobot_atlasvla.libero.tasks import SPATIAL, SUITES

_SPATIAL = (SPATIAL,)
UNKNOWN = "not stated"
_GAM_PAPER = "arXiv 2606.17046, table 12"
_GAM_ALL = "arXiv 2606.17046, table 1"
_OPENPI = "sylvestf/LIBERO-plus#57"


@dataclass(frozen=True)
class Published:
    """Hold one published row; rates in percent.

    Attributes:
        policy: Name.
        suites: LIBERO suites it is over.
        total: Over all seven categories; None if not given.
        categories: Rates by category, as the source has them: ``layout`` is all of it.
        prompt: Which prompt was used, or :data:`UNKNOWN`.
        robot_start: Which start was used, or :data:`UNKNOWN`.
        source: Where it is from.
    """

    policy: str
    suites: tuple[str, ...]
    source: str
    total: float | None = None
    categories: dict[str, float] = field(default_factory=dict)
    prompt: str = UNKNOWN
    robot_start: str = UNKNOWN


PUBLISHED = (
    Published("GAM", _SPATIAL, _GAM_PAPER, 93.4, {"camera": 91.5}, robot_start="original"),
    Published("pi0.5 (run by GAM's authors)", _SPATIAL, _GAM_PAPER, 92.0, {"camera": 76.6}),
    Published("Cosmos Policy (run by GAM's authors)", _SPATIAL, _GAM_PAPER, 87.3, {"camera": 83.5}),
    Published("RIPT (in GAM's paper)", _SPATIAL, _GAM_PAPER, 85.8, {"camera": 85.4}),
    Published("OpenVLA-OFT (in GAM's paper)", _SPATIAL, _GAM_PAPER, 84.0, {"camera": 88.3}),
    Published(
        "pi0",
        _SPATIAL,
        "arXiv 2605.02757, second-hand",
        42.7,
        {"camera": 21.3, "robot": 10.3, "language": 37.9, "layout": 69.6},
    ),
    Published(
        "LeRobot's pi05_libero_finetuned_v044, run with LeRobot",
        _SPATIAL,
        "sylvestf/LIBERO-plus#57",
        72.8,
        prompt="leaky",
        robot_start="original",
    ),
    Published(
        "GAM",
        SUITES,
        _GAM_ALL,
        85.5,
        {"camera": 83.1, "robot": 70.0, "language": 84.8, "noise": 95.3, "layout": 79.1},
        robot_start="original",
    ),
    Published(
        "pi0.5 (run by GAM's authors)",
        SUITES,
        _GAM_ALL,
        84.6,
        {"camera": 72.0, "robot": 76.6, "language": 86.5, "noise": 86.7, "layout": 86.0},
    ),
    Published(
        "openpi's pi05_libero",
        SUITES,
        _OPENPI,
        84.2,
        {"camera": 67.3, "robot": 78.8, "language": 86.3, "noise": 87.3, "layout": 86.4},
    ),
    Published(
        "OpenVLA-OFT+ (trained on LIBERO-Plus)",
        SUITES,
        "allenai/vla-evaluation-harness c37779a",
        80.7,
        {"camera": 92.8, "robot": 30.3, "language": 85.8, "noise": 89.3, "layout": 77.6},
    ),
    Published(
        "OpenVLA-OFT",
        SUITES,
        _GAM_ALL,
        69.6,
        {"camera": 56.4, "robot": 31.9, "language": 79.5, "noise": 75.8, "layout": 74.3},
    ),
)


def comparable_rows(suites: list[str]) -> list[Published]:
    """Return the published rows over exactly these suites, in any order."""
    return [row for row in PUBLISHED if set(row.suites) == set(suites)]


def warnings(row: Published, prompt: str, robot_start: str) -> list[str]:
    """Say what keeps a published row from being compared with a run.

    Args:
        row: The row.
        prompt: The run's.
        robot_start: The run's.
    """
    found = []
    for flag, ours, theirs in (("prompt", prompt, row.prompt), ("robot start", robot_start, row.robot_start)):
        if theirs == UNKNOWN:
            found.append(f"{flag} not stated")
        elif theirs != ours:
            found.append(f"{flag} {theirs}, ours {ours}")
    return found
