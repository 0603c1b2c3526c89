"""What a study is made on: a model, prompts, and perhaps a circuit that is known."""
