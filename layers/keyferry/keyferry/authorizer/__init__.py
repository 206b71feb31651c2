"""A Lambda authorizer for the team's own APIs."""
