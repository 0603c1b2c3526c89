"""Files: whole or not at all, circuits and scores as JSON, the layouts of EAP-IG and MIB."""
