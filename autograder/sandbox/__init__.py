"""Where students' code runs while it is graded."""

SANDBOX = "coursekit-sandbox"
"""The name under which Jupyter finds the kernel provisioner."""
