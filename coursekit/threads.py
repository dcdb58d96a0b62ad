"""How OpenMP's threads wait for each other: one policy for notebooks, checks, grading and benchmarks.

Every operation that torch shares out to the cores ends when its slowest thread does. By default the others spin until
then, which saves a wake-up where each thread has a core, and takes the core from the one they wait for where another
program runs: what is measured of both stands in docs/performance.md. OpenMP reads its settings once, when torch loads
it, so this is done as coursekit is imported, which imports no torch by itself.
"""

import os

POLICY = {"OMP_WAIT_POLICY": "passive"}
# Whoever sets one of these has a policy already: of the whole, of GNU's library, of LLVM's and Intel's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
SHARING = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What a process that starts from an empty environment has to be given, to keep to the same policy.
VARIABLES = (*WAITING, *SHARING)


def prefer() -> None:
    """Set the policy for this process and those that it starts, unless the environment has one."""
    if not any(name in os.environ for name in WAITING):
        os.environ.update(POLICY)
