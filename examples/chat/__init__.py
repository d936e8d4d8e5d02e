"""The demonstration: one chat room over several gunicorn workers."""
