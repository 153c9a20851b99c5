"""What the back end does with the files of a tenant that is closed."""
