"""The memory of a value: the SHA-256 digest of its text."""

from __future__ import annotations

from psycopg import sql

from migrations_playbook.quarantine.base import Quarantine

# Types whose text depends on no setting of the session.
SETTLED_TYPES = {"uuid", "text", "character varying", "character", "citext", "boolean"}
SETTLED_TYPES |= {"smallint", "integer", "bigint", "numeric"}
# The settings on which the texts of other types depend.
TEXT_SETTINGS = {
    "bytea_output": "hex",
    "datestyle": "ISO",
    "extra_float_digits": "1",
    "intervalstyle": "postgres",
    "timezone": "UTC",
}


def digest_sql(quarantine: Quarantine, column: str, row: str = "") -> sql.Composable:
    """Compose the digest of a value, with the columns that are unique together with the value.

    Arguments:
        column: the value's column.
        row: the text in front of a column's name.
    """

    def text(name: str) -> sql.Composable:
        """Compose the text of a column's value; folded where the type ignores case."""
        plain = sql.SQL("{}{}::pg_catalog.text").format(sql.SQL(row), sql.Identifier(name))
        # To citext, values that differ in case only are the same.
        folds = quarantine.table.columns[name].type.endswith("citext")
        return sql.SQL("pg_catalog.lower({})").format(plain) if folds else plain

    texts = [text(name) for name in (column, *(quarantine.key or ()))]
    whole = texts[0]
    if len(texts) > 1:
        whole = sql.SQL("ROW({})::pg_catalog.text").format(sql.SQL(", ").join(texts))
    return sql.SQL("pg_catalog.sha256(pg_catalog.convert_to({}, 'UTF8'))").format(whole)


def is_remembered_sql(quarantine: Quarantine, column: str, row: str = "") -> sql.Composable:
    """Compose the question whether a value has leaked and has left its column."""
    if quarantine.key is None:
        return sql.SQL("false")
    return sql.SQL("EXISTS (SELECT FROM {} AS leaked WHERE leaked.digest = {})").format(
        quarantine.object("leaked"), digest_sql(quarantine, column, row)
    )


def unsettled_texts(quarantine: Quarantine) -> dict[str, str]:
    """List the settings on which the texts of the values depend, as set for the digests."""
    columns = quarantine.table.columns
    types = {columns[name].type.split("(")[0].split(".")[-1] for name in quarantine.compared}
    return {} if types <= SETTLED_TYPES else TEXT_SETTINGS


def text_settings(quarantine: Quarantine) -> sql.Composable:
    """Compose the same settings, and those of its kin, as clauses of CREATE FUNCTION."""
    settings = {
        name: value for each in quarantine.together for name, value in unsettled_texts(each).items()
    }
    return sql.SQL("").join(
        sql.SQL(" SET {} = {}").format(sql.SQL(name), sql.Literal(value))
        for name, value in settings.items()
    )
