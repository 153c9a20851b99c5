"""Examines a data directory, which may be in use, without changing anything, and reports problems and their remedies."""

from tenantry.doctor.examination import examine
from tenantry.doctor.finding import Finding, Level
from tenantry.doctor.process import OpenTenant, Process, ProcessState
from tenantry.doctor.report import Report

__all__ = ["Finding", "Level", "OpenTenant", "Process", "ProcessState", "Report", "examine"]
