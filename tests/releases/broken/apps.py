"""Each app breaks one thing when it is loaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pgtrigger.migrations
import psycopg
from django.apps import AppConfig
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy, Seized
from migrations_playbook.postgres.query import execute
from migrations_playbook.quarantine import setup
from migrations_playbook.rehearsal.scratch import compose_conninfo
from migrations_playbook.rehearsal.traffic.client import Client
from migrations_playbook.swap.dependents import kinds
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.dependents.own import triggers
from migrations_playbook.swap.rows import rotated


class Broken(AppConfig):
    name = "tests.releases.broken"
    label = "broken"


class NoTrigger(Broken):
    """The triggers are there and enabled, and do nothing."""

    def ready(self) -> None:
        def add(schema_editor: Any, model: Any, trigger: Any) -> None:
            idle = type(trigger.sql)(**{**trigger.sql.kwargs, "func": "RETURN NEW;"})
            schema_editor.execute(str(idle), params=None)

        pgtrigger.migrations._add_trigger = add


class NoQuarantine(Broken):
    """The swap exchanges the columns and leaves it at that; its own proof misses nothing."""

    def ready(self) -> None:
        setup.ready_steps = setup.arm_steps = lambda *_: []  # type: ignore[assignment]
        rotated.find_problems = lambda *_: ()  # type: ignore[attr-defined]


class PlainLock(Broken):
    """The lock is asked for without a timeout, behind a transaction that idles for a while."""

    def ready(self) -> None:
        def seize(
            connection: BaseDatabaseWrapper,
            table: sql.Identifier,
            policy: LockPolicy | None = None,
            *,
            first: Sequence[sql.Composable] = (),
        ) -> Seized:
            idle = psycopg.connect(compose_conninfo(connection, connection.settings_dict["NAME"]))
            idle.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table))
            threading.Timer(2.0, idle.close).start()
            execute(connection, sql.SQL("SET LOCAL lock_timeout = 0"))
            execute(connection, sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
            return Seized(attempts=1, wait_ms=0.0, since=time.monotonic())

        locks.seize = seize


class NoReinstall(Broken):
    """The triggers stay with the old columns, as an exchange by renaming alone would leave them."""

    def ready(self) -> None:
        def read_left_behind(reading: Reading) -> Iterator[Dependent]:
            for each in triggers.KIND.read(reading):
                yield replace(each, steps=None)

        left_behind = replace(triggers.KIND, read=read_left_behind)
        kinds.KINDS = tuple(left_behind if kind is triggers.KIND else kind for kind in kinds.KINDS)


class NoClient(Broken):
    """The clients cannot read the rows that they begin with."""

    def ready(self) -> None:
        def fail(client: Client, key: str) -> models.Model:
            raise LookupError

        Client.fetch_row = fail  # type: ignore[method-assign, assignment]
