"""The lumbar-disc study; `pretrained` gives the networks that it ships."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumbar_disk.weights import pretrained

__all__ = ["pretrained"]


def __getattr__(name: str) -> Any:
    """Load the room that `pretrained` stands in, when it is first asked for."""
    if name in __all__:
        from lumbar_disk import weights  # noqa: PLC0415 - torch and the rest are loaded when needed

        return getattr(weights, name)
    raise AttributeError(f"module 'lumbar_disk' has no attribute {name!r}; it has {', '.join(__all__)}")
