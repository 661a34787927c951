"""A rolling upgrade: the previous release and this one side by side on the same servers."""
