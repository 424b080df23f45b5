"""The command of each play, as a person types it in this project.

Every project has `manage.py playbook`. An app may declare aliases of two lines (see
`management.base`); a message then names the alias, since people type the alias there.
"""

from __future__ import annotations

from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec

from django.core.management import get_commands, load_command_class
from django.db import DEFAULT_DB_ALIAS

PACKAGE = __name__.partition(".")[0]
STATUS = "status"


def spell_command(play: str, label: str = "", shadow: str = "", *options: str) -> str:
    """Spell the command that plays a part for a replacement.

    Arguments:
        play: "backfill", "swap", "status", "rehearse", "expand", "forget" or "contract".
        label: the model's label, `tickets.Ticket`; empty for all replacements.
        shadow: the shadow field's name.
        options: more arguments, `--revert` say.

    Returns:
        A line such as `manage.py playbook swap tickets.Ticket.new_token --revert`.
    """
    # An alias of the status shows all replacements; any other alias is for a single replacement.
    of_one = play != STATUS
    alias = _read_aliases().get((play, label.lower(), shadow) if of_one else (play, "", ""))
    words = [alias] if alias else ["playbook", play, f"{label}.{shadow}" if label else ""]
    return " ".join(["manage.py", *filter(None, words), *options])


def name_database(using: str) -> tuple[str, ...]:
    """Spell the option that names a database's alias; nothing for the default."""
    return () if using == DEFAULT_DB_ALIAS else ("--database", using)


def spell_migrate(using: str = DEFAULT_DB_ALIAS) -> str:
    """Spell the command that runs the migrations of a database."""
    return " ".join(["manage.py migrate", *name_database(using)])


@cache
def _read_aliases() -> dict[tuple[str, str, str], str]:
    """Read which commands of the project's apps are aliases, by play, model and shadow."""
    aliases = {}
    for name, app in get_commands().items():
        if _mentions_us(app, name):
            command = load_command_class(app, name)
            play = getattr(command, "play", None)
            if play is not None:
                key = getattr(command, "model", ""), getattr(command, "shadow", "")
                aliases[play, key[0].lower(), key[1]] = name
    return aliases


def _mentions_us(app: object, name: str) -> bool:
    """Tell by its text whether a command can be an alias.

    To load every command of a project could take long, and do anything.
    """
    if not isinstance(app, str) or app == "django.core":
        return False
    module = f"{app}.management.commands.{name}"
    found = find_spec(module)
    loader = None if found is None else found.loader
    return isinstance(loader, InspectLoader) and PACKAGE in (loader.get_source(module) or "")
