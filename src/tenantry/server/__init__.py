"""The HTTP server of ``tenantry serve``, which needs the extra ``service``."""
