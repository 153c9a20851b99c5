"""The admin API: the tenants of a registry over HTTP. It needs the extra ``service``."""

from tenantry.admin.app import create_admin_app, end_streams
from tenantry.admin.bodies import BodyLimits

__all__ = ["BodyLimits", "create_admin_app", "end_streams"]
