"""``tenantry serve``: the HTTP server. It needs the extra ``service``."""
