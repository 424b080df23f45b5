"""Another project's app, of another shape than `tickets`: text, a key that is drawn, a foreign key.

A voucher's code is a text of twelve characters that its save() draws, its key a UUID; a voucher
belongs to a shop, so none can be made of defaults alone; the field that is written is a text; and
a migration that follows the expand changes the table too.
"""
