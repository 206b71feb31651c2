"""DPoP, proof of possession of the device key (RFC 9449)."""
