"""Reference implementations, data sets and figures of the course."""
