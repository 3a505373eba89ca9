"""How many of the machine's cores this process may use."""

import os


def usable_cores() -> int:
    """Those it is bound to, as by taskset or a cluster's scheduler; where the system cannot say, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
