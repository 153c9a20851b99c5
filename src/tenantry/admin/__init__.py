"""The admin API: the tenants of a registry over HTTP. It needs the extra ``service``."""

from tenantry.admin.app import begin_drain, create_admin_app, end_streams
from tenantry.admin.http.bodies import BodyLimits
from tenantry.admin.http.strangers import StrangerRate

__all__ = ["BodyLimits", "StrangerRate", "begin_drain", "create_admin_app", "end_streams"]
