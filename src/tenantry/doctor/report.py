"""The report of an examination."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, computed_field

from tenantry.doctor.finding import Finding, Level
from tenantry.doctor.process import OpenTenant, Process


class Report(BaseModel):
    """The result of an examination.

    Attributes:
        processes: The processes that have the data directory open.
        open_tenants: The tenants in files that these processes have open, in the order of the catalog; empty if the catalog cannot be read.
    """

    model_config = ConfigDict(frozen=True)

    data_dir: str
    findings: Sequence[Finding]
    processes: Sequence[Process] = ()
    open_tenants: Sequence[OpenTenant] = ()

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def is_ok(self) -> bool:
        """Whether no finding needs an action."""
        return all(finding.level is not Level.WRONG for finding in self.findings)
