"""The command `edge-circuits`: what the library does, from a shell, on a user's own model and prompts."""
