"""Looks a data directory over, and says what is wrong and what to do. It reads only, and the directory may be in use."""

from tenantry.doctor.examination import examine
from tenantry.doctor.finding import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
