"""The parts of the admin API that handle every request before and after its route."""
