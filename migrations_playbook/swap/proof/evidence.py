"""The facts for an incident report, as a JSON file without any token."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.query import fetch_row
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.proof.verify import digest_values


class Evidence:
    """The collector of a swap's facts, written to a file at the end.

    Arguments:
        path: the file; must not exist, so no evidence is overwritten.
        play: "swap", "revert" or "verify".

    Raises:
        PlaybookError: the file exists, or cannot be written.
    """

    def __init__(self, path: Path, play: str) -> None:
        self.path = path
        self.began = datetime.now(UTC)
        self.facts: dict[str, Any] = {"play": play, "outcome": "unfinished"}
        try:
            # Readable by its owner only: the file names roles, tables and times.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise PlaybookError(
                f"{path} exists, and evidence is not overwritten. Name another file."
            ) from None
        except OSError as error:
            raise PlaybookError(
                f"{path} cannot be written ({error.strerror}). Name another file."
            ) from None

    def before(self, connection: BaseDatabaseWrapper, pair: Pair) -> None:
        """Note the place, the role, the bound objects, and the digest of the live values before."""
        row = fetch_row(
            connection,
            sql.SQL("""
                SELECT current_database(), inet_server_addr()::text, inet_server_port(),
                       current_setting('server_version'), session_user::text,
                       current_user::text"""),
        )
        database, address, port, version, session, role = row
        self.facts |= {
            "database": database,
            "server": {"address": address, "port": port, "version": version},
            "role": role,
            "session_role": session,
            "os_user": os.environ.get("SUDO_USER") or os.environ.get("USER"),
            "model": pair.replacement.label,
            "table": str(pair.table),
            "column": pair.replacement.live,
            "retired_column": pair.replacement.shadow,
        }
        if len(pair.members) > 1:
            self.facts["columns"] = [
                {"column": each.live.name, "retired_column": each.shadow.name}
                for each in pair.members
            ]
        self._note_digests("live_values_before", connection, pair)

    def after(self, connection: BaseDatabaseWrapper, pair: Pair) -> None:
        """Note the digest of the live values after."""
        self._note_digests("live_values_after", connection, pair)

    def add(self, facts: dict[str, Any]) -> None:
        """Note counts, durations and names."""
        self.facts |= facts

    def write(self, outcome: str) -> None:
        """Write the file.

        Arguments:
            outcome: the end of the play, in a sentence.
        """
        ended = datetime.now(UTC)
        self.facts |= {
            "outcome": outcome,
            "began": self.began.isoformat(),
            "ended": ended.isoformat(),
            "seconds": round((ended - self.began).total_seconds(), 3),
        }
        self.path.write_text(json.dumps(self.facts, indent=2) + "\n")

    def _note_digests(self, moment: str, connection: BaseDatabaseWrapper, pair: Pair) -> None:
        """Note the digests of the live values; of a group each member's beside its columns."""
        found = [
            {
                **digest_values(connection, each).as_json(),
                "how": "sum and exclusive or of hashtextextended(value::text, 0)",
            }
            for each in pair.members
        ]
        self.facts[moment] = found[0]
        for columns, digest in zip(self.facts.get("columns", ()), found, strict=False):
            columns[moment] = digest
