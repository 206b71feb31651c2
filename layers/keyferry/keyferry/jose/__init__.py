"""The JOSE subset that Keyferry speaks, and HPKE beside it, each file named by its RFC.

Composed directly on ``cryptography``: one signature algorithm for what we issue, two for what a
device may prove with, and for what we deliver the one that the device has registered. Nothing here
reads an algorithm from a token in order to choose what to trust.
"""
