"""Values as options and settings spell them, mostly numbers with a unit: `240s`, `20GB`, `10%`, 5.

Each function takes the text of an option, or a setting's own number, and raises a ValueError that
says what would have been right.
"""

from __future__ import annotations

import re
from pathlib import Path

DURATIONS = {"s": 1, "min": 60, "h": 3600}
SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_count(value: object) -> int:
    """Parse a whole number from 1."""
    try:
        number = int(_spell(value))
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{value!r} is not a whole number from 1")
    return number


def parse_number(value: object) -> float:
    """Parse a number above 0."""
    try:
        number = float(_spell(value))
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise ValueError(f"{value!r} is not a number above 0")
    return number


def parse_size(value: object) -> float:
    """Parse bytes, such as 500MB or 20GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?b)?", _spell(value))
    if not match or not float(match[1]):
        raise ValueError(f"{value!r} is not a size such as 500MB or 20GB")
    return float(match[1]) * SIZES[match[2] or ""]


def parse_duration(value: object) -> float:
    """Parse seconds, such as 240s, 5min or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", _spell(value))
    if not match or not float(match[1]):
        raise ValueError(f"{value!r} is not a time such as 240s, 5min or 2h")
    return float(match[1]) * DURATIONS[match[2] or "s"]


def parse_share(value: object) -> float:
    """Parse a share, such as 10% or 0.1, or 0."""
    text = _spell(value)
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not a share such as 10% or 0.1")
    return number


def parse_duty(value: object) -> float:
    """Parse a share above 0."""
    number = parse_share(value)
    if not number:
        raise ValueError("a duty of 0 would never be done; use --pause")
    return number


def parse_query(value: object) -> str:
    """Parse a query, of which only the server knows whether it is right."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a query is a text, SELECT ... say")
    return value


def parse_folder(value: object) -> Path:
    """Parse the path of a folder, which need not exist yet."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError(f"{value!r} is not the path of a folder")
    return Path(value)


def megabytes(size: float | None) -> str:
    """Spell bytes for a person, in megabytes."""
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"


def _spell(value: object) -> str:
    """Spell a value as an option would; nothing else than a text or a number is either."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return f"{value:f}" if isinstance(value, float) else str(value).strip().lower()
