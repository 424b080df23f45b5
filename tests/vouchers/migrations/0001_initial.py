"""The tables as they were when the codes leaked."""

import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Shop",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=40)),
            ],
        ),
        migrations.CreateModel(
            name="Voucher",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                (
                    "code",
                    models.CharField(
                        db_column="Code",
                        max_length=12,
                        unique=True,
                    ),
                ),
                ("note", models.CharField(blank=True, max_length=20)),
                (
                    "shop",
                    models.ForeignKey(
                        db_column="Shop",
                        on_delete=django.db.models.deletion.CASCADE,
                        to="vouchers.shop",
                    ),
                ),
            ],
        ),
    ]
