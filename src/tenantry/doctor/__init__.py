"""Examines a data directory, which may be in use, and reports what is wrong and what to do. It changes nothing."""

from tenantry.doctor.examination import examine
from tenantry.doctor.finding import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
