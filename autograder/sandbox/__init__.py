"""Where students' code runs while it is graded."""
