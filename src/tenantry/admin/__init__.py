"""The admin API: the tenants of a registry over HTTP. It needs the extra ``service``."""

from tenantry.admin.app import create_admin_app

__all__ = ["create_admin_app"]
