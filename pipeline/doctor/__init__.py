"""Whether a run could work here and on a cluster, before it begins."""
