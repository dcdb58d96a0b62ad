"""What is claimed about speed and memory, and about results on real data, as commands."""

import coursekit  # noqa: F401 - before torch: it says how threads wait
