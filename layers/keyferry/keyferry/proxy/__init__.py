"""Proxy mode: calls to an upstream with a key that never reaches a device."""
