"""Features and neurons as nodes: dictionaries of directions at a site, files of them, and circuits of features as models."""
