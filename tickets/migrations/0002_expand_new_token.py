"""Expand: the shadow column and its triggers, under a lock that is taken boundedly."""

import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

import migrations_playbook.operations
import migrations_playbook.trigger_sql


class Migration(migrations.Migration):
    dependencies = [
        ("tickets", "0001_initial"),
    ]

    operations = [
        migrations_playbook.operations.WithTableLock(
            model_name="ticket",
            operations=[
                migrations.AddField(
                    model_name="ticket",
                    name="new_token",
                    field=models.UUIDField(editable=False, null=True),
                ),
                pgtrigger.migrations.AddTrigger(
                    model_name="ticket",
                    trigger=pgtrigger.compiler.Trigger(
                        name="fill_new_token",
                        sql=migrations_playbook.trigger_sql.PinnedTriggerSql(
                            condition='WHEN (NEW."new_token" IS NULL)',
                            func='IF TG_OP = \'UPDATE\' THEN NEW."new_token" := OLD."new_token"; END IF; IF NEW."new_token" IS NULL THEN FOR draw IN 1..100 LOOP NEW."new_token" := GEN_RANDOM_UUID(); EXIT WHEN NEW."new_token" IS DISTINCT FROM NEW."token"; END LOOP; END IF; RETURN NEW;',
                            hash="d67fc5932e26a2569eb2f3d5086c5f2817af63d7",
                            operation="INSERT OR UPDATE",
                            pgid="pgtrigger_fill_new_token_6fffd",
                            table="tickets_ticket",
                            when="BEFORE",
                        ),
                    ),
                ),
                pgtrigger.migrations.AddTrigger(
                    model_name="ticket",
                    trigger=pgtrigger.compiler.Trigger(
                        name="keep_new_token",
                        sql=migrations_playbook.trigger_sql.PinnedTriggerSql(
                            condition='WHEN (NEW."token" = OLD."new_token" AND NEW."token" IS DISTINCT FROM OLD."token")',
                            func='NEW."token" := OLD."token"; NEW."new_token" := OLD."new_token"; RETURN NEW;',
                            hash="361025edfb7e1e4a5f11e44797390efa41b93daf",
                            operation="UPDATE",
                            pgid="pgtrigger_keep_new_token_7d896",
                            table="tickets_ticket",
                            when="BEFORE",
                        ),
                    ),
                ),
            ],
        ),
    ]
