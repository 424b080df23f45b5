from migrations_playbook.management.rehearse import RehearseCommand
from migrations_playbook.rehearsal.script import Releases, Script


class Command(RehearseCommand):
    script = Script(
        model="tickets.Ticket",
        live="token",
        shadow="new_token",
        stamp="redeemed_at",
        before="0001",
        releases=Releases(
            n="tests.releases.n.settings",
            n1="tests.releases.n1.settings",
            n2="tests.releases.n2.settings",
            n3="tests.releases.n3.settings",
        ),
        seed="seed_tickets",
        backfill="backfill_new_token",
        swap="swap_token_columns",
    )
