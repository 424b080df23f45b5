import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            name="Ticket",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("token", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("redeemed_at", models.DateTimeField(blank=True, null=True)),
                ("new_token", models.UUIDField(editable=False, null=True)),
            ],
        ),
    ]
