"""Evidence that a request comes from a genuine copy of the app."""
