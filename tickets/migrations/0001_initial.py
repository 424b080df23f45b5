import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    """Create the table of tickets."""

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Ticket",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("token", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("redeemed_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
    ]
