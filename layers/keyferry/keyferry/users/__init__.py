"""Users, their passwords, and login."""
