"""Reference implementations, data sets and figures of the course."""

from coursekit import threads

threads.prefer()
