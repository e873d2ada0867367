"""What is missing where an extra is not installed, and the command that installs it."""

from __future__ import annotations

from pathlib import Path

NAME = "mlp_xp"
ROOT = Path(__file__).parent.parent


def missing(who: str, extra: str, error: ImportError) -> ImportError:
    """The error in the place of another one: who needs what, what is wrong, what to install."""
    return ImportError(f"{who} ({error}): {cure(extra)}", name=error.name)


def cure(extra: str) -> str:
    """The command that installs an extra, as a shell reads it.

    What is installed, from an index or from a clone, has its extras in its own metadata, where
    pip finds them. A clone that is on the path alone is named by its folder.
    """
    import shlex
    from importlib import metadata

    try:
        metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        if (ROOT / "pyproject.toml").is_file():
            return f"pip install -e {shlex.quote(f'{ROOT}[{extra}]')}"
    return f"pip install {shlex.quote(f'{NAME}[{extra}]')}"
