"""Examines a data directory, which may be in use, without changing anything, and reports problems and their remedies."""

from tenantry.doctor.examination import examine
from tenantry.doctor.finding import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
