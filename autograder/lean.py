"""What processes of our own need not wait for when they start."""

import sys


def without_grammars() -> None:
    """Have jsonschema, with which nbformat reads notebooks, do without the grammars of international addresses: to build
    them takes longer than all the rest, and no notebook's schema knows such an address. Before nbformat is imported."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
