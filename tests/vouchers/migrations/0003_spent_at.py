"""What came with the same release: more than the expand."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vouchers", "0002_expand_new_code"),
    ]

    operations = [
        migrations.AddField(
            model_name="voucher",
            name="spent_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddIndex(
            model_name="voucher",
            index=models.Index(fields=["note"], name="voucher_note"),
        ),
    ]
