"""Login with ID tokens of other issuers (OpenID Connect Core 1.0): Firebase Auth, Google, Apple, any."""
