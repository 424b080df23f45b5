from migrations_playbook.management.rehearse import RehearseCommand


class Command(RehearseCommand):
    model, shadow = "vouchers.Voucher", "new_code"
    backfill, swap = ("backfill_vouchers",), ("swap_vouchers",)
