"""Patterns such as s3://bucket/archive/**/*.mp4."""

import glob
from collections.abc import Sequence
from fnmatch import fnmatchcase

from jdance.remote import objects
from jdance.remote.objects import Entry


def split(pattern: str) -> tuple[str, str]:
    """Splits a pattern into the address of the folder that it fixes, and the rest."""
    scheme, _, path = pattern.partition("://")
    parts = path.split("/")
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return f"{scheme}://{'/'.join(parts[:fixed])}", "/".join(parts[fixed:])


def matching(pattern: str) -> dict[str, Entry]:
    """The objects that match a pattern, by their names below the folder that it fixes.

    As in `glob.glob`, "**" stands for any number of folders, and neither it nor a wildcard at the
    start of a name matches hidden names.
    """
    base, rest = split(pattern)
    parts = rest.split("/")
    found = objects.listing(base)
    return {name: entry for name, entry in found.items() if _matches(name.split("/"), parts)}


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts:
        return not names
    first, rest = parts[0], parts[1:]
    if first == "**":
        below = bool(names) and not names[0].startswith(".") and _matches(names[1:], parts)
        return below or _matches(names, rest)
    return (
        bool(names)
        and fnmatchcase(names[0], first)
        and (first.startswith(".") or not names[0].startswith("."))
        and _matches(names[1:], rest)
    )
