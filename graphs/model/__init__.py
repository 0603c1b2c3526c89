"""Reading models: TransformerLens models of any kind become plain tensors and the functions that run them."""
