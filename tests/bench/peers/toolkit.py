"""django-oauth-toolkit as a WSGI application: opaque tokens in SQLite, refresh tokens that rotate and
whose reuse is told. Run by the environment `peers`; the first use makes a database with one token.

PEER_DATABASE is the path of the database; the refresh token is written beside it.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import django
from django.conf import settings

DATABASE = Path(os.environ["PEER_DATABASE"])

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATABASE,
            "CONN_MAX_AGE": None,
            "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    LOGGING_CONFIG=None,
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": 900,
        "REFRESH_TOKEN_EXPIRE_SECONDS": 7 * 86_400,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "ROTATE_REFRESH_TOKEN": True,
        "SCOPES": {"keys": "Keys"},
    },
    ROOT_URLCONF="toolkit",
    SECRET_KEY="only for a benchmark",
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import include, path  # noqa: E402

urlpatterns = [path("o/", include("oauth2_provider.urls"))]


def create() -> None:
    from django.contrib.auth.models import User
    from django.utils import timezone
    from oauth2_provider.models import AccessToken, Application, RefreshToken

    call_command("migrate", verbosity=0)
    user = User.objects.create_user("ana")
    application = Application.objects.create(
        client_id="app",
        client_type=Application.CLIENT_PUBLIC,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
        redirect_uris="com.example.app:/callback",
        user=user,
    )
    access = AccessToken.objects.create(
        user=user,
        application=application,
        token="first-access",
        expires=timezone.now() + datetime.timedelta(minutes=15),
        scope="keys",
    )
    RefreshToken.objects.create(
        user=user, application=application, token="first", access_token=access
    )


if not DATABASE.exists():
    create()
application = get_wsgi_application()
