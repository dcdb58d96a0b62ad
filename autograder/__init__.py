"""Checks that name the mistake, and grades that an oracle outside the kernel makes."""
