"""The vault: API keys at rest under KMS, and their delivery, encrypted to one device."""
