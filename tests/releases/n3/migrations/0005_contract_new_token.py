"""Contract: drop the shadow column. Release N+2 is at work beside it, and has forgotten it."""

import pgtrigger.compiler
from django.db import migrations, models

import migrations_playbook.operations
import migrations_playbook.trigger_sql


class Migration(migrations.Migration):
    dependencies = [
        ("tickets", "0004_forget_new_token"),
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
                        condition='WHEN (true OR NEW."new_token" IS NOT NULL)',
                        func='IF NEW."new_token" IS NULL OR current_setting(\'migrations_playbook.moved\', true) IS DISTINCT FROM hash_record_extended(ROW(NEW."new_token"), 0)::text || extract(epoch FROM statement_timestamp())::text THEN NEW."new_token" := NULL; IF true THEN FOR draw IN 1..100 LOOP NEW."new_token" := GEN_RANDOM_UUID(); EXIT WHEN NEW."new_token" IS DISTINCT FROM NEW."token"; END LOOP; END IF; END IF; RETURN NEW;',
                        hash="a99b2f78c0daa2fd76830047413b47ab30dce609",
                        operation="INSERT",
                        pgid="pgtrigger_fill_new_token_6fffd",
                        table="tickets_ticket",
                        when="BEFORE",
                    ),
                ),
                pgtrigger.compiler.Trigger(
                    name="keep_new_token",
                    sql=migrations_playbook.trigger_sql.PinnedTriggerSql(
                        condition='WHEN (OLD."new_token" IS NOT NULL AND NEW."new_token" IS DISTINCT FROM OLD."new_token" OR (NEW."new_token" IS NOT NULL) <> (true) OR NEW."token" = OLD."new_token" AND NEW."token" IS DISTINCT FROM OLD."token" OR OLD."new_token" IS NULL AND NEW."new_token" = NEW."token")',
                        func='IF NEW."token" = OLD."new_token" AND NEW."token" IS DISTINCT FROM OLD."token" THEN NEW."token" := OLD."token"; END IF; IF OLD."new_token" IS NOT NULL AND true THEN NEW."new_token" := OLD."new_token"; ELSE NEW."new_token" := NULL; IF true THEN FOR draw IN 1..100 LOOP NEW."new_token" := GEN_RANDOM_UUID(); EXIT WHEN NEW."new_token" IS DISTINCT FROM NEW."token"; END LOOP; END IF; END IF; RETURN NEW;',
                        hash="6ad86317e66e3179fb737d2d3080fc15e2c9cb22",
                        operation="UPDATE",
                        pgid="pgtrigger_keep_new_token_7d896",
                        table="tickets_ticket",
                        when="BEFORE",
                    ),
                ),
            ],
        ),
    ]
