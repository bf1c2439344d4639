"""CapFilt, the dataset bootstrapping of BLIP, as a resumable pipeline on Ray."""
