"""The report page: one HTML file with a circuit to look at, made from `page.html`, its style and its scripts."""
