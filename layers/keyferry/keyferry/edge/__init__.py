"""The edge: API Gateway's event in, a response out, and every error in one shape."""
