"""Command line of the study: `lumbar-disk`."""

try:
    from lumbar_disk.cli._commands import app
except ModuleNotFoundError as error:
    if (error.name or "").startswith(("advreg", "lumbar_disk")):
        raise
    raise SystemExit(f"lumbar-disk needs {error.name}: pip install 'advreg[lumbar]'") from error

__all__ = ["app"]
