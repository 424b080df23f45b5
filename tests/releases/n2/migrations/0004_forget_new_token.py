"""Take the shadow column out of Django's state alone: release N+1 still selects it."""

import pgtrigger.migrations
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("tickets", "0003_renew_triggers"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                pgtrigger.migrations.RemoveTrigger(model_name="ticket", name="fill_new_token"),
                pgtrigger.migrations.RemoveTrigger(model_name="ticket", name="keep_new_token"),
                migrations.RemoveField(model_name="ticket", name="new_token"),
            ],
        ),
    ]
