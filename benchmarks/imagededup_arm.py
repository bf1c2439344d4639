"""imagededup's own searches on vectors and hashes in files; run by `benchmarks.dedup` in imagededup's environment.

Its package loads torchvision and a network to make vectors with; here they are made already, so both stay out.
"""

import json
import logging
import resource
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

for name in (
    "",
    ".transforms",
    ".transforms.functional",
    ".models",
    ".models.vision_transformer",
    ".models.mobilenetv3",
):
    sys.modules[f"torchvision{name}"] = MagicMock()

from imagededup.handlers.search.retrieval import HashEval  # noqa: E402
from imagededup.methods.cnn import CNN  # noqa: E402
from imagededup.methods.hashing import Hashing  # noqa: E402

folder, way, similarity = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
started = time.monotonic()
if way == "cosine":
    vectors = np.load(folder / "vectors.npy")
    method = object.__new__(CNN)
    method.verbose, method.results, method.logger = False, None, logging.getLogger("quiet")
    found = method._find_duplicates_dict(
        {str(number): vector for number, vector in enumerate(vectors)},
        similarity,
        scores=False,
        num_sim_workers=0,
    )
else:
    hashes = {str(number): row.tobytes().hex() for number, row in enumerate(np.load(folder / "hashes.npy"))}
    evaluated = HashEval(
        test=hashes,
        queries=hashes,
        distance_function=Hashing.hamming_distance,
        verbose=False,
        threshold=16,
        search_method="brute_force_cython",
        num_dist_workers=0,
    )
    found = evaluated.retrieve_results(scores=False)
said = {
    "seconds": round(time.monotonic() - started, 1),
    "max_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    "pairs": {one: [int(other) for other in others] for one, others in found.items() if others},
}
print(json.dumps(said))
