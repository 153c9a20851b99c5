"""The errors with which ``tenantry serve`` ends; each leaf class has its own exit code."""


class ServeError(Exception):
    """The service cannot run; the message gives the cause and the remedy."""


class ServeSettingsError(ServeError):
    """An address, a certificate, a key or the URL of a database in the settings cannot be used."""


class DataDirectoryUnavailableError(ServeError):
    """The data directory in the settings cannot be opened."""
