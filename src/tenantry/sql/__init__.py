"""SQL of the caller: statements, parameters, rows, models and streams."""
