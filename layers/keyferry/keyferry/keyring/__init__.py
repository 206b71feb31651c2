"""The keyring: token-signing key pairs, refresh-token MAC keys and DPoP nonce keys, wrapped by KMS."""
