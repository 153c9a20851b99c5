"""Quotes names and texts as parts of SQL."""


def quoted(*names: str) -> str:
    """Return a name, or a name in a schema, in quotes."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: str) -> str:
    """Return a text as a literal, which has the same meaning with every setting if the text has no backslash."""
    return "'" + text.replace("'", "''") + "'"
