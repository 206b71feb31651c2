"""The two tokens: a signed access token (RFC 9068) and an opaque, rotating refresh token."""
