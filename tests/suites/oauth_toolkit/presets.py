"""The settings of django-oauth-toolkit under which the tests run."""

from __future__ import annotations

from typing import Any

from jwcrypto import jwk

READ_AND_WRITE = {"read": "Reading scope", "write": "Writing scope"}


def draw_key() -> str:
    """Draw an RSA key, in PEM."""
    key = jwk.JWK.generate(kty="RSA", size=2048)
    return str(key.export_to_pem(private_key=True, password=None).decode())


ALLOWED_SCHEMES_DEFAULT = {"ALLOWED_SCHEMES": ["https"]}
ALLOWED_SCHEMES_HTTP = {"ALLOWED_SCHEMES": ["https", "http"]}
DEFAULT_SCOPES_RW = {"DEFAULT_SCOPES": ["read", "write"]}
DEFAULT_SCOPES_RO = {"DEFAULT_SCOPES": ["read"]}
OIDC_SETTINGS_RW: dict[str, Any] = {
    "OIDC_ENABLED": True,
    "OIDC_ISS_ENDPOINT": "http://localhost/o",
    "OIDC_USERINFO_ENDPOINT": "http://localhost/o/userinfo/",
    "OIDC_RSA_PRIVATE_KEY": draw_key(),
    "OIDC_RSA_PRIVATE_KEYS_INACTIVE": [draw_key(), draw_key()],
    "SCOPES": {**READ_AND_WRITE, "openid": "OpenID connect"},
    "DEFAULT_SCOPES": ["read", "write"],
    "PKCE_REQUIRED": False,
    "REFRESH_TOKEN_EXPIRE_SECONDS": 3600,
}
OIDC_SETTINGS_RO = OIDC_SETTINGS_RW | {"DEFAULT_SCOPES": ["read"]}
OIDC_SETTINGS_EMAIL_SCOPE = OIDC_SETTINGS_RW | {
    "SCOPES": {**READ_AND_WRITE, "openid": "OpenID connect", "email": "Email address"}
}
OIDC_SETTINGS_RP_LOGOUT = OIDC_SETTINGS_RW | {
    "OIDC_RP_INITIATED_LOGOUT_ENABLED": True,
    "OIDC_RP_INITIATED_LOGOUT_ALWAYS_PROMPT": False,
}
OIDC_SETTINGS_RP_LOGOUT_STRICT_REDIRECT_URI = OIDC_SETTINGS_RP_LOGOUT | {
    "OIDC_RP_INITIATED_LOGOUT_STRICT_REDIRECT_URIS": True
}
OIDC_SETTINGS_RP_LOGOUT_DENY_EXPIRED = OIDC_SETTINGS_RP_LOGOUT | {
    "OIDC_RP_INITIATED_LOGOUT_ACCEPT_EXPIRED_TOKENS": False
}
OIDC_SETTINGS_RP_LOGOUT_KEEP_TOKENS = OIDC_SETTINGS_RP_LOGOUT | {
    "OIDC_RP_INITIATED_LOGOUT_DELETE_TOKENS": False
}
REST_FRAMEWORK_SCOPES = {
    "SCOPES": {
        **READ_AND_WRITE,
        "scope1": "Scope 1",
        "scope2": "Scope 2",
        "resource1": "Resource 1",
    }
}
INTROSPECTION_SETTINGS = {
    "SCOPES": {**READ_AND_WRITE, "introspection": "Introspection scope", "dolphin": "A dolphin's"},
    "RESOURCE_SERVER_INTROSPECTION_URL": "http://example.org/introspection",
    "READ_SCOPE": "read",
    "WRITE_SCOPE": "write",
}
