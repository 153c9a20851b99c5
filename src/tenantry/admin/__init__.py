"""The admin API: manages a registry's tenants over HTTP. The admin API needs the extra ``service``."""

from typing import TYPE_CHECKING

from tenantry.lazy_names import lazy_names as _lazy_names

if TYPE_CHECKING:
    from tenantry.admin.app import begin_drain, create_admin_app, end_streams
    from tenantry.admin.http.bodies import BodyLimits
    from tenantry.admin.http.strangers import StrangerRate
    from tenantry.admin.routes.probes import make_probes

__all__ = ["BodyLimits", "StrangerRate", "begin_drain", "create_admin_app", "end_streams", "make_probes"]

# The names load lazily, because programs without the web framework use the API's models.
__getattr__ = _lazy_names(
    __name__,
    {
        "tenantry.admin.app": ("begin_drain", "create_admin_app", "end_streams"),
        "tenantry.admin.http.bodies": ("BodyLimits",),
        "tenantry.admin.http.strangers": ("StrangerRate",),
        "tenantry.admin.routes.probes": ("make_probes",),
    },
)
