"""Sessions: one login on one device, one row, one counter."""
