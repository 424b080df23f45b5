"""Expand, as `playbook expand` writes it."""

import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

import migrations_playbook.operations
import migrations_playbook.trigger_sql


class Migration(migrations.Migration):
    dependencies = [
        ("vouchers", "0001_initial"),
    ]

    operations = [
        migrations_playbook.operations.WithTableLock(
            model_name="voucher",
            operations=[
                migrations.AddField(
                    model_name="voucher",
                    name="new_code",
                    field=models.CharField(editable=False, max_length=12, null=True),
                ),
                pgtrigger.migrations.AddTrigger(
                    model_name="voucher",
                    trigger=pgtrigger.compiler.Trigger(
                        name="fill_new_code",
                        sql=migrations_playbook.trigger_sql.PinnedTriggerSql(
                            condition='WHEN (NEW."new_code" IS NULL)',
                            func='IF TG_OP = \'UPDATE\' THEN NEW."new_code" := OLD."new_code"; END IF; IF NEW."new_code" IS NULL THEN FOR draw IN 1..100 LOOP NEW."new_code" := LEFT(MD5((GEN_RANDOM_UUID())::text), 12); EXIT WHEN NEW."new_code" IS DISTINCT FROM NEW."Code"; END LOOP; END IF; RETURN NEW;',
                            hash="3be5fbe63610453e53b1e6d14cc3cd4325db8fd2",
                            operation="INSERT OR UPDATE",
                            pgid="pgtrigger_fill_new_code_5dbce",
                            table="vouchers_voucher",
                            when="BEFORE",
                        ),
                    ),
                ),
                pgtrigger.migrations.AddTrigger(
                    model_name="voucher",
                    trigger=pgtrigger.compiler.Trigger(
                        name="keep_new_code",
                        sql=migrations_playbook.trigger_sql.PinnedTriggerSql(
                            condition='WHEN (NEW."Code" = OLD."new_code" AND NEW."Code" IS DISTINCT FROM OLD."Code")',
                            func='NEW."Code" := OLD."Code"; NEW."new_code" := OLD."new_code"; RETURN NEW;',
                            hash="b76631e22b1a7f98439d66098a7bfccdebc4cb36",
                            operation="UPDATE",
                            pgid="pgtrigger_keep_new_code_3b206",
                            table="vouchers_voucher",
                            when="BEFORE",
                        ),
                    ),
                ),
            ],
        ),
    ]
