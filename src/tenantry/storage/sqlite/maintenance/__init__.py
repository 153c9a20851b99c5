"""Work on a database as a whole: checks, repairs and copies."""
