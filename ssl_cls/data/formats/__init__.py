"""The official on-disk formats of published data sets, one family a file: (folder, part) -> Part."""
