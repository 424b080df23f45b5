from migrations_playbook.management.backfill import BackfillCommand


class Command(BackfillCommand):
    model, shadow = "vouchers.Voucher", "new_code"
