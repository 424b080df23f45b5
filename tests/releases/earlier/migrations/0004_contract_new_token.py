"""Contract: drop the shadow column. Release N+2 is at work beside it, and has forgotten it."""

import pgtrigger.compiler
from django.db import migrations, models

import migrations_playbook.operations
import migrations_playbook.trigger_sql


class Migration(migrations.Migration):
    dependencies = [
        ("tickets", "0003_forget_new_token"),
    ]

    operations = [
        migrations_playbook.operations.ContractShadow(
            model_name="ticket",
            live="token",
            shadow="new_token",
            field=models.UUIDField(editable=False, null=True),
            triggers=[
                pgtrigger.compiler.Trigger(
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
                pgtrigger.compiler.Trigger(
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
            ],
        ),
    ]
