"""Keyferry: log a phone in, rotate its tokens, and deliver API keys encrypted to it."""

__version__ = "0.1.0"
