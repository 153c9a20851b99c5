"""Integrations with other libraries; `tenantry.integrations.fastapi` is for FastAPI and Starlette."""
