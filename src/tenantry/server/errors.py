"""Why the service cannot run. ``tenantry serve`` ends with these; each leaf is an exit code of its own."""


class ServeError(Exception):
    """The service cannot run; the text says why and what to do."""


class ServeSettingsError(ServeError):
    """An address, a certificate or a key of the settings cannot be used."""


class DataDirectoryUnavailableError(ServeError):
    """The data directory of the settings cannot be opened."""
