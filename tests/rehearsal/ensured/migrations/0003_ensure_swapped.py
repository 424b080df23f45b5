from django.db import migrations

import migrations_playbook.operations


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("tickets", "0002_expand_new_token"),
    ]

    operations = [
        migrations_playbook.operations.EnsureSwapped("ticket", live="token", shadow="new_token"),
    ]
