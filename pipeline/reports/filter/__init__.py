"""The filter's report card: what human pairs tell of it, and what that says of the crawl's texts."""
