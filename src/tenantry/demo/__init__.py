"""``tenantry demo``: the main job on real files, and a check afterwards that nothing was lost or mixed up."""

from tenantry.demo.run import DemoResult, DemoSettings, run_demo

__all__ = ["DemoResult", "DemoSettings", "run_demo"]
