"""The JOSE subset that Keyferry speaks, each file named by its RFC.

Composed directly on ``cryptography``: one signature algorithm for what we issue, two for what a
device may prove with, one key agreement for what we deliver. Nothing here reads an algorithm from
a token in order to choose what to trust.
"""
