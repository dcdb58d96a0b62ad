"""Data sets: one a module; here what notebooks need of all of them."""

from coursekit.data.choice import here, small_images, whereabouts
from coursekit.data.items import VOID, Files, InMemory, Item, SmallImages

__all__ = ["VOID", "Files", "InMemory", "Item", "SmallImages", "here", "small_images", "whereabouts"]
