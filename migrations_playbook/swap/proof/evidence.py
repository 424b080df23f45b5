"""The facts for an incident report, without any token."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_row
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.proof.verify import digest_values


class Evidence:
    """The collector of a swap's facts.

    Arguments:
        play: "swap", "revert", "verify" or "mend".
    """

    def __init__(self, play: str) -> None:
        self.began = datetime.now(UTC)
        self.facts: dict[str, Any] = {"play": play, "outcome": "unfinished"}

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

    def conclude(self, outcome: str) -> dict[str, Any]:
        """Return all the facts at the end, to be written as JSON.

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
        return self.facts

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
