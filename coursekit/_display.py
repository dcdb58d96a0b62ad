"""What is shown under a notebook cell, and whether anyone is there to see it."""

import sys
from typing import Any


def in_notebook() -> bool:
    """Whether this runs in a kernel, whose front end can show HTML."""
    return getattr(_shell(), "kernel", None) is not None


def emit(bundle: dict[str, Any], handle: Any = None) -> Any:
    """Show a bundle of representations by MIME type under the cell; outside a notebook, print its plain text.

    Args:
        bundle: representations of one thing, at least "text/plain".
        handle: what an earlier call returned, to replace its output instead of adding one.

    Returns:
        A handle for a later call; None outside a notebook.
    """
    if not in_notebook():
        print(bundle["text/plain"])
        return None
    from IPython.display import display

    if handle is not None:
        handle.update(bundle, raw=True)
        return handle
    return display(bundle, raw=True, display_id=True)


def _shell() -> Any:
    # A program that never imported IPython is not a notebook, and need not import it to find out.
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None
