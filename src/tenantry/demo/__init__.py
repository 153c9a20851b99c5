"""``tenantry demo``: runs a workload on real files, and then checks that no record was lost or mixed up."""

from tenantry.demo.run import DemoResult, DemoSettings, run_demo

__all__ = ["DemoResult", "DemoSettings", "run_demo"]
