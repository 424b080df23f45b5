from migrations_playbook.management.swap import SwapCommand


class Command(SwapCommand):
    model, shadow = "vouchers.Voucher", "new_code"
