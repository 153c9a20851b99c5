"""The parts of the admin API that every request passes before and after its route."""
