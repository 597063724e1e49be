"""How many processor cores this process may use."""

import os


def usable_cores() -> int:
    """The cores that the scheduler lets this process run on; all of them where it cannot say."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
