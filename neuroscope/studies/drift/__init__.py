"""Study of drift: whether a new version of a model may replace the old one."""
