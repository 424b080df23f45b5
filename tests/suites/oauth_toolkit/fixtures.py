"""The fixtures that the tests ask for, and the stage that the database is in: their conftest.py."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from jwcrypto import jwk, jwt
from oauth2_provider import models
from oauth2_provider.oauth2_validators import OAuth2Validator
from oauth2_provider.settings import oauth2_settings as theirs
from oauthlib.common import Request

from migrations_playbook import status

from . import presets
from .apps import TARGETS
from .settings import STAGE, UNTOUCHED

# How an application proves who it is: several tests write the same.
SECRET = "1234567890abcdefghijklmnopqrstuvwxyz"
# Whom the tokens of the set-up log in: see `ask_tokens`.
LOGGED_IN: dict[str, bool] = {}
# A preset, an application and a scope, for which tokens are fetched.
Fetch = Callable[[dict[str, Any], Any, str], SimpleNamespace]
# Claims, other than the right ones, for which a token is signed.
Sign = Callable[..., str]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oauth2_settings(preset): the settings of a test")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Play to the stage of this run, with the rows of a site that has been at work before."""
    with django_db_blocker.unblock():
        write_rows()
        stale = models.AccessToken.objects.get()
        if STAGE == "exchanged":
            exchange()
        LOGGED_IN.update(ask_tokens(stale))
        # The tests count theirs.
        get_user_model().objects.all().delete()
        # Of an empty table no row is left to be filled.
        phases = {} if STAGE == UNTOUCHED else {each.phase for each in status.read("default")}
    assert phases == {"untouched": {}, "expanded": {"filled"}, "exchanged": {"swapped"}}[STAGE]


def write_rows() -> None:
    """Give every table with a shadow a row, whose tokens leak."""
    user = get_user_model().objects.create_user("of a time before")
    application = models.Application.objects.create(user=user, name="before")
    usual = {"user": user, "application": application}
    expires = timezone.now() + timedelta(hours=1)
    access = models.AccessToken.objects.create(token="leaked", expires=expires, **usual)
    models.Grant.objects.create(code="leaked", expires=expires, **usual)
    models.RefreshToken.objects.create(token="leaked", access_token=access, **usual)
    models.IDToken.objects.create(expires=expires, **usual)


def exchange() -> None:
    """Fill and swap every shadow."""
    for target in TARGETS:
        call_command("playbook", "backfill", target)
        call_command("playbook", "swap", target)


def ask_tokens(stale: Any) -> dict[str, bool]:
    """Ask whom the tokens log in: the one of before, the row's, and one that is made now.

    Arguments:
        stale: the row, as a process of before has it in hand, and saves it.
    """
    before = stale.token
    stale.save()
    row = models.AccessToken.objects.get()
    usual = {"user": row.user, "application": row.application, "expires": row.expires}
    models.AccessToken.objects.create(token="made now", **usual)
    asked = {"before": before, "row": row.token, "now": "made now"}
    return {name: logs_in(token) for name, token in asked.items()}


def logs_in(token: str) -> bool:
    """Tell whether a token logs somebody in, by django-oauth-toolkit's own validator."""
    request = Request("http://testserver/")
    return bool(OAuth2Validator().validate_bearer_token(token, [], request))


@pytest.fixture
def logged_in() -> dict[str, bool]:
    """Whom the tokens of the set-up have logged in."""
    return LOGGED_IN


class Settings:
    """django-oauth-toolkit's settings; what a test sets is forgotten at its end.

    Arguments:
        settings: Django's, as pytest-django lends them.
        preset: what the test's mark names.
    """

    def __init__(self, settings: Any, preset: dict[str, Any]) -> None:
        vars(self)["_django"] = settings
        self.update(preset)

    def update(self, preset: dict[str, Any]) -> None:
        """Set them all anew."""
        self._django.OAUTH2_PROVIDER = preset
        theirs.reload()
        # A view keeps its server otherwise, with the settings of another test.
        self.ALWAYS_RELOAD_OAUTHLIB_CORE = True

    def __getattr__(self, name: str) -> Any:
        return getattr(theirs, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(theirs, name, value)
        # What is cached is forgotten by a reload.
        theirs._cached_attrs.add(name)

    def __delattr__(self, name: str) -> None:
        delattr(theirs, name)
        theirs._cached_attrs.discard(name)


@pytest.fixture
def oauth2_settings(request: pytest.FixtureRequest, settings: Any) -> Iterator[Settings]:
    """The settings of a test, on its instance too."""
    mark = request.node.get_closest_marker("oauth2_settings")
    lent = Settings(settings, mark.args[0] if mark else {})
    if request.instance is not None:
        request.instance.oauth2_settings = lent
    yield lent
    lent.update({})


@pytest.fixture
def rp_settings(oauth2_settings: Settings) -> Settings:
    oauth2_settings.update(presets.OIDC_SETTINGS_RP_LOGOUT)
    return oauth2_settings


@pytest.fixture
def oidc_key(request: pytest.FixtureRequest) -> Any:
    key = jwk.JWK.from_pem(presets.OIDC_SETTINGS_RW["OIDC_RSA_PRIVATE_KEY"].encode())
    if request.instance is not None:
        request.instance.key = key
    return key


def register(name: str, kind: str, address: str) -> Any:
    return models.Application.objects.create(
        name=name,
        client_type=kind,
        client_secret=SECRET,
        redirect_uris=address,
        post_logout_redirect_uris=address,
        authorization_grant_type=models.Application.GRANT_AUTHORIZATION_CODE,
        algorithm=models.Application.RS256_ALGORITHM,
    )


@pytest.fixture
def application(db: None) -> Any:
    return register("Test Application", "confidential", "http://example.org")


@pytest.fixture
def public_application(db: None) -> Any:
    return register("Other Application", "public", "http://other.org")


@pytest.fixture
def hybrid_application(application: Any) -> Any:
    application.authorization_grant_type = application.GRANT_OPENID_HYBRID
    application.save()
    return application


@pytest.fixture
def cors_application(application: Any) -> Any:
    application.allowed_origins = "https://example.com http://example.com"
    application.save()
    return application


def enrol(name: str) -> Any:
    return get_user_model().objects.create_user(name, f"{name}@example.com", "123456")


@pytest.fixture
def test_user(db: None) -> Any:
    return enrol("test_user")


@pytest.fixture
def other_user(db: None) -> Any:
    return enrol("other_user")


@pytest.fixture
def logged_in_client(test_user: Any) -> Client:
    client = Client()
    client.force_login(test_user)
    return client


@pytest.fixture
def fetch_tokens(oauth2_settings: Settings, test_user: Any, client: Client) -> Fetch:
    """Ask for a grant and change it for tokens, as a browser and an application do."""

    def fetch(preset: dict[str, Any], application: Any, scope: str) -> SimpleNamespace:
        oauth2_settings.update(preset)
        client.force_login(test_user)
        asked = {
            "client_id": application.client_id,
            "redirect_uri": application.redirect_uris,
            "scope": scope,
        }
        allowed = client.post(
            reverse("oauth2_provider:authorize"),
            {**asked, "state": "a state", "response_type": "code", "allow": True},
        )
        code = parse_qs(urlsplit(allowed["Location"]).query)["code"][0]
        client.logout()
        changed = {"grant_type": "authorization_code", "code": code, "client_secret": SECRET}
        tokens = client.post(reverse("oauth2_provider:token"), asked | changed).json()
        return SimpleNamespace(
            user=test_user,
            application=application,
            access_token=tokens["access_token"],
            id_token=tokens["id_token"],
            oauth2_settings=oauth2_settings,
        )

    return fetch


@pytest.fixture
def oidc_tokens(fetch_tokens: Fetch, application: Any) -> SimpleNamespace:
    return fetch_tokens(presets.OIDC_SETTINGS_RW, application, "openid")


@pytest.fixture
def oidc_email_scope_tokens(fetch_tokens: Fetch, application: Any) -> SimpleNamespace:
    return fetch_tokens(presets.OIDC_SETTINGS_EMAIL_SCOPE, application, "openid email")


@pytest.fixture
def oidc_non_confidential_tokens(fetch_tokens: Fetch, public_application: Any) -> SimpleNamespace:
    return fetch_tokens(presets.OIDC_SETTINGS_EMAIL_SCOPE, public_application, "openid")


@pytest.fixture
def sign_token(oauth2_settings: Settings, oidc_key: Any, test_user: Any, application: Any) -> Sign:
    """Sign an ID token that has expired, by more than the minute that jwcrypto lets pass."""

    def sign(**claims: object) -> str:
        expires = timezone.now() - timedelta(seconds=61)
        jti = str(uuid.uuid4())
        token = jwt.JWT(
            header={"typ": "JWT", "alg": "RS256", "kid": oidc_key.thumbprint()},
            claims={
                "exp": int(expires.timestamp()),
                "jti": jti,
                "aud": application.client_id,
                "iss": oauth2_settings.OIDC_ISS_ENDPOINT,
                **claims,
            },
        )
        token.make_signed_token(oidc_key)
        models.IDToken.objects.create(
            user=test_user, expires=expires, jti=jti, application=application
        )
        return str(token.serialize())

    return sign


@pytest.fixture
def expired_id_token(sign_token: Sign) -> str:
    return sign_token()


@pytest.fixture
def id_token_wrong_aud(sign_token: Sign) -> str:
    return sign_token(aud="")


@pytest.fixture
def id_token_wrong_iss(sign_token: Sign) -> str:
    return sign_token(iss="")
