"""What several tests call."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from unittest import mock


def get_basic_auth_header(user: str, password: str) -> dict[str, str]:
    """Build the header of HTTP Basic authentication, as Django's test client takes it."""
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"HTTP_AUTHORIZATION": f"Basic {pair}"}


def spy_on(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method so that its calls can be read from `spy`, the instance among the arguments."""
    spy = mock.MagicMock(wraps=method)

    def call(*args: Any, **options: Any) -> Any:
        return spy(*args, **options)

    call.spy = spy  # type: ignore[attr-defined]
    return call
