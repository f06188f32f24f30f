"""A forecast is read: from the online store, through a bundle, to a file, an API or a page."""
