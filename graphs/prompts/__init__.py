"""Prompts: pairs of clean and corrupted ones, their files, batches and checks."""
