"""tenantry inside somebody else's framework; `tenantry.integrations.fastapi` is for FastAPI and Starlette."""
