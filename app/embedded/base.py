"""What Django loads for `ENGINE = "app.embedded"`."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base, client
from django.db.utils import OperationalError

from app.embedded.programs import ServerError
from app.embedded.server import SUPERUSER, Cluster


@functools.cache
def cluster() -> Cluster:
    """Return this process's cluster, the one that the settings name; it is not started yet.

    Raises:
        ImproperlyConfigured: The settings name none that can be used.
    """
    try:
        return Cluster(Path(settings.EMBEDDED_POSTGRES_DATA), settings.EMBEDDED_POSTGRES_VERSION)
    except ServerError as error:
        raise ImproperlyConfigured(str(error)) from error


class DatabaseClient(client.DatabaseClient):
    """`manage.py dbshell`, with the psql that comes with the server."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return psql's command line and environment."""
        (_, *arguments), env = super().settings_to_cmd_args_env(settings_dict, parameters)
        return [str(cluster().bin_path / "psql"), *arguments], env

    def runshell(self, parameters: Iterable[str]) -> None:
        """Run psql on the started server."""
        self.connection.ensure_connection()
        super().runshell(parameters)


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection to the embedded server, which the first one starts."""

    client_class = DatabaseClient

    def get_connection_params(self) -> dict[str, Any]:
        """Start the server unless it runs, and return how to reach it.

        Raises:
            OperationalError: The server did not start; the message says why.
        """
        try:
            cluster().start()
        except ServerError as error:
            raise OperationalError(str(error)) from error
        self.settings_dict.update(HOST=cluster().host, PORT=cluster().port, USER=SUPERUSER)
        return super().get_connection_params()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, creating the database when the server does not have it yet."""
        try:
            return super().get_new_connection(conn_params)
        except self.Database.OperationalError:
            # libpq reports no SQLSTATE for a refused connection, so ask whether this was the cause.
            if not cluster().create_database(conn_params["dbname"]):
                raise
            return super().get_new_connection(conn_params)
