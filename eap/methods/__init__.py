"""The scoring methods, a file each."""
