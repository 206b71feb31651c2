"""The edge: API Gateway's event in, a response out, and every error in one shape."""

import gc

# Loading a function makes objects that stay, and so do few of those that a request makes. Python looks
# for cycles among them after every 2,000; that is a twelfth of a cold start, and it finds none.
gc.set_threshold(50_000)
