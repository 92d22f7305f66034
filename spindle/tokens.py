"""Tokens for the API, where a login is needed and Spindle holds the secret that signs them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import jwt

from spindle.access import Access
from spindle.errors import SettingsError

READER = "api_reader"


def make_token(access: Access, lifetime: timedelta) -> str:
    """A signed token that reads the API for that long. Raises SettingsError when there is no secret to sign with."""
    if not access.jwt_secret:
        raise SettingsError(
            "API_JWT_SECRET is not set, so there is nothing to sign a token with",
            "with API_JWKS_FILE tokens come from who holds its keys; with neither, none is needed",
        )
    now = datetime.now(timezone.utc)
    return jwt.encode({"role": READER, "iat": now, "exp": now + lifetime}, access.jwt_secret, algorithm="HS256")


def own_headers(access: Access) -> dict[str, str]:
    """What Spindle's own check sends, for a minute."""
    return {"Authorization": f"Bearer {make_token(access, timedelta(minutes=1))}"} if access.login else {}
