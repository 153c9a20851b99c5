"""tenantry beside its peers, on one machine, in one run: ``python -m benchmarks``; see docs/benchmarks.md."""
