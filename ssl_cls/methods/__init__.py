"""Each method in one file: its configuration, its default views, its networks, its mathematics."""
